"""The workers that are alive: their heartbeats, what they offer, and the fence for those that fell silent."""

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

#: A catalogue that no worker announces again is forgotten after so long (s).
_CATALOGUE_TTL = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class WorkerAnnouncement:
    """What a worker says of itself. `catalogue` is the digest of the tasks that it offers."""

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
    #: The version of its time zone data; workers of earlier releases do not say it.
    zone_data: str = ""
    #: Modules of users that did not import: "name: place: error".
    broken: tuple[str, ...] = ()
    #: The package of users' jobs that it imports; workers of earlier releases do not say it.
    package: str = ""

    def to_text(self) -> str:
        """As kept in Redis."""
        return json.dumps({**asdict(self), "started_at": self.started_at.isoformat()})

    @classmethod
    def from_text(cls, text: str) -> "WorkerAnnouncement":
        """Return the inverse of `to_text`; raises `ValueError` for anything that no worker wrote."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is no object")
        numbers = {name: _parse_number(values, name) for name in ("pid", "concurrency")}
        names = {name: _parse_names(values, name) for name in ("queues", "tasks")}
        texts = {name: _parse_text(values, name, longest) for name, longest in _MAX_LENGTHS.items()}
        version = _parse_text(values, "code_version", _MAX_TEXT_LENGTH)[: definition.MAX_CODE_VERSION_LENGTH]
        started_at = dt.datetime.fromisoformat(_parse_text(values, "started_at", _MAX_TEXT_LENGTH)).astimezone(dt.UTC)
        # Absent from what older workers say.
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


#: Longest texts of an announcement, as SQL keeps them (characters), and of what is cut or read further.
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
    return tuple(_parse_text({name: each}, name, _MAX_TEXT_LENGTH) for each in value)


@functools.lru_cache(maxsize=1)
def _compute_digest(announcement: WorkerAnnouncement) -> str:
    """Return the SHA-1 of its text: each heartbeat asks, and writing the text costs a millisecond with 200 tasks."""
    return hashlib.sha1(announcement.to_text().encode(), usedforsecurity=False).hexdigest()


def _is_utf_8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


class UnreadableKey(NamedTuple):
    """A key that holds what no worker wrote, and what is wrong with it."""

    key: str
    reason: str


#: Takes note of a key that is left out.
UnreadableKeyReporter = Callable[[UnreadableKey], None]


class HeartbeatStatus(IntEnum):
    """What Redis answers to a heartbeat."""

    FENCED = 0
    KNOWN = 1
    UNKNOWN = 2


@dataclass(frozen=True, slots=True)
class HeartbeatResponse:
    """The answer to a heartbeat: how it stands with the worker, and who else has been silent for too long."""

    status: HeartbeatStatus
    silent_workers: tuple[str, ...] = ()


class WorkerRegistry:
    """The register of workers: they write it and look after each other; the relay reads it."""

    def __init__(self, client: redis.Redis, lease: float) -> None:
        self._client = client
        self._lease_ms = int(lease * 1000)
        self._heartbeat = client.register_script(workers.HEARTBEAT)
        self._silent = client.register_script(workers.SILENT)
        self._reap = client.register_script(workers.REAP)

    def send_heartbeat(self, announcement: WorkerAnnouncement, running: Iterable[tuple[str, int]]) -> HeartbeatResponse:
        """Say that this worker is alive, and which (execution, attempt) it is running.

        The pulse is UNKNOWN unless Redis holds exactly this announcement of it.
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
        """Return every (execution, attempt) that some live worker says it is running."""
        found: set[tuple[str, int]] = set()
        for key, text in self._read_texts(keys.RUNNING, report):
            try:
                found |= {(str(execution), int(attempt)) for execution, attempt in json.loads(text)}
            except (TypeError, ValueError, RecursionError) as error:
                report(UnreadableKey(key, f"it is no JSON list of [execution, attempt]: {error}"))
        return found

    def _read_texts(self, pattern: str, report: UnreadableKeyReporter) -> list[tuple[str, str]]:
        """Return (key, text) of this key of each worker, where it is a text."""
        names = [pattern.format(worker=worker) for worker in self._list_workers(report)]
        texts: list[Any] = self._client.mget(names) if names else []
        return [(name, text) for name, text in zip(names, texts, strict=True) if text]

    def _list_workers(self, report: UnreadableKeyReporter) -> list[str]:
        """Return the names of workers. Those that are no UTF-8 are removed: read as text, they cannot be reaped."""
        client: Any = self._client
        members: list[bytes] = client.execute_command("ZRANGE", keys.WORKERS, 0, -1, **{NEVER_DECODE: True})
        strange = {member for member in members if not _is_utf_8(member)}
        if strange:
            client.zrem(keys.WORKERS, *strange)
            example = min(strange)[:_MAX_TEXT_LENGTH]
            why = f"it named workers in bytes that are no UTF-8, such as {example!r}; removed: {len(strange)}"
            report(UnreadableKey(keys.WORKERS, why))
        return [member.decode() for member in members if member not in strange]

    def announce(self, announcement: WorkerAnnouncement, catalog: Iterable[Mapping[str, Any]]) -> None:
        """Make the worker and its tasks known."""
        with self._client.pipeline(transaction=True) as pipe:
            name = keys.CATALOGUE.format(digest=announcement.catalogue)
            pipe.set(name, json.dumps(list(catalog)), ex=_CATALOGUE_TTL)
            pipe.set(keys.WORKER.format(worker=announcement.worker), announcement.to_text(), px=self._lease_ms * 2)
            pipe.execute()

    def deregister(self, worker: str) -> None:
        """Say that `worker` stops in good order: it has nothing in hand any more."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.zrem(keys.WORKERS, worker)
            names = (keys.WORKER, keys.RUNNING, keys.INFLIGHT)
            pipe.delete(*(name.format(worker=worker) for name in names))
            pipe.execute()

    def list_announcements(self, report: UnreadableKeyReporter) -> list[WorkerAnnouncement]:
        """Return every worker whose heartbeat is recent enough to have an announcement."""
        found = []
        for key, text in self._read_texts(keys.WORKER, report):
            try:
                announcement = WorkerAnnouncement.from_text(text)
                if keys.WORKER.format(worker=announcement.worker) != key:
                    raise ValueError(f"it speaks of the worker {announcement.worker!r}")
            except (ValueError, RecursionError, OverflowError) as error:
                report(UnreadableKey(key, f"it is no announcement of a worker: {error}"))
            else:
                found.append(announcement)
        return found

    def get_catalog(self, digest: str, report: UnreadableKeyReporter) -> list[dict[str, Any]]:
        """Return the tasks behind a digest; none if Redis has forgotten them."""
        key = keys.CATALOGUE.format(digest=digest)
        try:
            text = self._client.get(key)
            found = json.loads(text) if text else []
        except (redis.ResponseError, ValueError, RecursionError) as error:
            report(UnreadableKey(key, f"it is no catalogue of tasks: {error}"))
            return []
        if not isinstance(found, list):
            report(UnreadableKey(key, "it is no catalogue of tasks: it is no list"))
            return []
        tasks = [each for each in found if isinstance(each, dict) and isinstance(each.get("name"), str)]
        if len(tasks) < len(found):
            report(UnreadableKey(key, f"{len(found) - len(tasks)} of its items are no tasks with a name"))
        return tasks

    def reap_silent_workers(self) -> list[str]:
        """Declare dead whoever has been silent for longer than the lease; answers who that was."""
        silent = self._silent(keys=[keys.WATCH, keys.WORKERS], args=[self._lease_ms])
        return [worker for worker in silent if self.reap_worker(worker)]

    def reap_worker(self, worker: str) -> bool:
        """Fence a silent worker and give back what it had not started. False if it has been heard meanwhile."""
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
