"""Registry of live workers: heartbeats, announcements, and the fence for silent workers."""

import datetime as dt
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import redis
from redis.client import NEVER_DECODE

from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.jobs import definition
from jobworker.transport import keys
from jobworker.transport.claims import flatten
from jobworker.transport.scripts import workers

#: Lifetime of a task catalog that no worker announces again (s).
_CATALOG_TTL_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class WorkerAnnouncement:
    """A worker's description of itself. `catalogue` is the digest of its task catalog."""

    worker: str
    host: str
    pid: int
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    catalogue: str
    code_version: str
    started_at: dt.datetime
    #: The version of its time zone data; absent for workers of earlier releases.
    zone_data: str = ""
    #: Modules of users that failed to import: "name: place: error".
    broken: tuple[str, ...] = ()
    #: The package of users' jobs that it imports; absent for workers of earlier releases.
    package: str = ""

    def to_text(self) -> str:
        """Return the announcement as stored in Redis."""
        return json.dumps({**asdict(self), "started_at": self.started_at.isoformat()})

    @classmethod
    def from_text(cls, text: str) -> "WorkerAnnouncement":
        """Return the inverse of `to_text`; raises `ValueError` for any other text."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
        numbers = {name: _parse_number(values, name) for name in ("pid", "concurrency")}
        names = {name: _parse_names(values, name) for name in ("queues", "tasks")}
        texts = {name: _parse_text(values, name, longest) for name, longest in _MAX_LENGTHS.items()}
        version = _parse_text(values, "code_version", _MAX_TEXT_LENGTH)[: definition.MAX_CODE_VERSION_LENGTH]
        started_at = dt.datetime.fromisoformat(_parse_text(values, "started_at", _MAX_TEXT_LENGTH)).astimezone(dt.UTC)
        # Absent from announcements of older workers.
        later = {"zone_data": "", "broken": [], "package": "", **values}
        zone_data, broken = _parse_text(later, "zone_data", _MAX_TEXT_LENGTH), _parse_names(later, "broken")
        package = _parse_text(later, "package", _MAX_TEXT_LENGTH)
        return cls(
            **texts,  # type: ignore[arg-type]
            **numbers,  # type: ignore[arg-type]
            **names,  # type: ignore[arg-type]
            code_version=version,
            started_at=started_at,
            zone_data=zone_data,
            broken=broken,
            package=package,
        )


#: Maximum lengths of an announcement's texts, as SQL stores them, and of texts that are cut or parsed further
#: (characters).
_MAX_LENGTHS = {"worker": 255, "host": 255, "pool": 32, "catalogue": 64}
_MAX_TEXT_LENGTH = 255


def _parse_text(values: Mapping[str, Any], name: str, max_length: int) -> str:
    value = values.get(name)
    if not isinstance(value, str) or len(value) > max_length or "\0" in value:
        raise ValueError(f"{name} must be a text of at most {max_length} characters")
    return value


def _parse_number(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{name} must be an integer from 0 to 2147483647")
    return value


def _parse_names(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = values.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of texts")
    return tuple(_parse_text({name: item}, name, _MAX_TEXT_LENGTH) for item in value)


@functools.lru_cache(maxsize=1)
def _compute_digest(announcement: WorkerAnnouncement) -> str:
    """Return the SHA-1 of the announcement's text.

    Cached, because each heartbeat needs it and serializing 200 tasks takes a millisecond.
    """
    return hashlib.sha1(announcement.to_text().encode(), usedforsecurity=False).hexdigest()


def _is_utf_8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


class UnreadableKey(NamedTuple):
    """A key with content that no worker wrote, and the reason why it is unreadable."""

    key: str
    reason: str


#: Called with each key that is skipped.
UnreadableKeyReporter = Callable[[UnreadableKey], None]


class HeartbeatStatus(IntEnum):
    """The status of a worker in the response to a heartbeat."""

    FENCED = 0
    KNOWN = 1
    UNKNOWN = 2


@dataclass(frozen=True, slots=True)
class HeartbeatResponse:
    """The response to a heartbeat: the worker's status, and other workers that have been silent for too long."""

    status: HeartbeatStatus
    silent_workers: tuple[str, ...] = ()


class WorkerRegistry:
    """The registry of workers: workers write it and reap each other; the relay reads it."""

    def __init__(self, client: redis.Redis, lease: float) -> None:
        self._client = client
        self._lease_ms = int(lease * 1000)
        self._heartbeat = client.register_script(workers.HEARTBEAT)
        self._silent = client.register_script(workers.SILENT)
        self._reap = client.register_script(workers.REAP)

    def send_heartbeat(self, announcement: WorkerAnnouncement, running: Iterable[tuple[str, int]]) -> HeartbeatResponse:
        """Record that this worker is alive, and which (execution, attempt) it is running.

        The status is UNKNOWN unless Redis holds exactly this announcement.
        """
        worker = announcement.worker
        pulse, *silent = self._heartbeat(
            keys=[
                keys.FENCE.format(worker=worker),
                keys.WORKERS,
                keys.WORKER.format(worker=worker),
                keys.RUNNING.format(worker=worker),
                keys.WATCH,
            ],
            args=[worker, self._lease_ms, json.dumps(list(running)), _compute_digest(announcement)],
        )
        return HeartbeatResponse(HeartbeatStatus(pulse), tuple(silent))

    def get_running_attempts(self, report: UnreadableKeyReporter) -> set[tuple[str, int]]:
        """Return every (execution, attempt) that a live worker reports as running."""
        attempts: set[tuple[str, int]] = set()
        for key, text in self._read_texts(keys.RUNNING, report):
            try:
                attempts |= {(str(execution), int(attempt)) for execution, attempt in json.loads(text)}
            except (TypeError, ValueError, RecursionError) as error:
                report(UnreadableKey(key, f"it is not a JSON list of [execution, attempt]: {error}"))
        return attempts

    def _read_texts(self, pattern: str, report: UnreadableKeyReporter) -> list[tuple[str, str]]:
        """Return (key, text) of this key of each worker, where the key holds a text."""
        names = [pattern.format(worker=worker) for worker in self._list_workers(report)]
        texts: list[Any] = self._client.mget(names) if names else []
        return [(name, text) for name, text in zip(names, texts, strict=True) if text]

    def _list_workers(self, report: UnreadableKeyReporter) -> list[str]:
        """Return the names of workers. Names that are not UTF-8 are removed: decoded, they cannot be reaped."""
        client: Any = self._client
        members: list[bytes] = client.execute_command("ZRANGE", keys.WORKERS, 0, -1, **{NEVER_DECODE: True})
        strange = {member for member in members if not _is_utf_8(member)}
        if strange:
            client.zrem(keys.WORKERS, *strange)
            example = min(strange)[:_MAX_TEXT_LENGTH]
            why = f"it named workers in bytes that are not UTF-8, such as {example!r}; removed: {len(strange)}"
            report(UnreadableKey(keys.WORKERS, why))
        return [member.decode() for member in members if member not in strange]

    def announce(self, announcement: WorkerAnnouncement, catalog: Iterable[Mapping[str, Any]]) -> None:
        """Write the worker's announcement and its task catalog."""
        with self._client.pipeline(transaction=True) as pipe:
            name = keys.CATALOG.format(digest=announcement.catalogue)
            pipe.set(name, json.dumps(list(catalog)), ex=_CATALOG_TTL_SECONDS)
            pipe.set(keys.WORKER.format(worker=announcement.worker), announcement.to_text(), px=self._lease_ms * 2)
            pipe.execute()

    def deregister(self, worker: str) -> None:
        """Remove a worker that stopped in good order, with no message in flight."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.zrem(keys.WORKERS, worker)
            names = (keys.WORKER, keys.RUNNING, keys.INFLIGHT)
            pipe.delete(*(name.format(worker=worker) for name in names))
            pipe.execute()

    def list_announcements(self, report: UnreadableKeyReporter) -> list[WorkerAnnouncement]:
        """Return the announcement of every worker with a recent heartbeat."""
        announcements = []
        for key, text in self._read_texts(keys.WORKER, report):
            try:
                announcement = WorkerAnnouncement.from_text(text)
                if keys.WORKER.format(worker=announcement.worker) != key:
                    raise ValueError(f"it names the worker {announcement.worker!r}")
            except (ValueError, RecursionError, OverflowError) as error:
                report(UnreadableKey(key, f"it is not an announcement of a worker: {error}"))
            else:
                announcements.append(announcement)
        return announcements

    def get_catalog(self, digest: str, report: UnreadableKeyReporter) -> list[dict[str, Any]]:
        """Return the tasks of the catalog with this digest; an empty list if Redis has lost it."""
        key = keys.CATALOG.format(digest=digest)
        try:
            text = self._client.get(key)
            catalog = json.loads(text) if text else []
        except (redis.ResponseError, ValueError, RecursionError) as error:
            report(UnreadableKey(key, f"it is not a task catalog: {error}"))
            return []
        if not isinstance(catalog, list):
            report(UnreadableKey(key, "it is not a task catalog: it is not a list"))
            return []
        tasks = [item for item in catalog if isinstance(item, dict) and isinstance(item.get("name"), str)]
        if len(tasks) < len(catalog):
            report(UnreadableKey(key, f"{len(catalog) - len(tasks)} of its items are not tasks with a name"))
        return tasks

    def reap_silent_workers(self) -> list[str]:
        """Declare workers dead that have been silent for longer than the lease; return their names."""
        silent = self._silent(keys=[keys.WATCH, keys.WORKERS], args=[self._lease_ms])
        return [worker for worker in silent if self.reap_worker(worker)]

    def reap_worker(self, worker: str) -> bool:
        """Fence a silent worker and return its unstarted messages to their lists.

        Returns False if the worker has sent a heartbeat meanwhile.
        """
        fields = events.encode(EventKind.WORKER_LOST, "", 0, {"worker": worker})
        lost = json.dumps({"worker": worker, "reason": "its worker stopped responding"})
        answer = self._reap(
            keys=[
                keys.WORKERS,
                keys.FENCE.format(worker=worker),
                keys.WORKER.format(worker=worker),
                keys.RUNNING.format(worker=worker),
                keys.INFLIGHT.format(worker=worker),
                keys.EVENTS,
            ],
            args=[
                worker,
                self._lease_ms,
                keys.FENCE_TTL,
                keys.RUNNING_TTL,
                keys.LOSSES_TTL,
                lost,
                *flatten(fields),
            ],
        )
        return bool(answer)
