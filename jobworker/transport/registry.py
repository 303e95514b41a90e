"""The workers that are alive: their heartbeats, what they offer, and the fence for those that fell silent."""

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import redis

from jobworker.domain import events
from jobworker.domain.events import Kind
from jobworker.transport import keys
from jobworker.transport.claims import flat
from jobworker.transport.scripts import workers

#: A catalogue that no worker announces again is forgotten after so long (s).
_CATALOGUE_TTL = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Announcement:
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

    def to_text(self) -> str:
        """As kept in Redis."""
        return json.dumps({**asdict(self), "started_at": self.started_at.isoformat()})

    @classmethod
    def from_text(cls, text: str) -> "Announcement":
        """The inverse of `to_text`."""
        values = json.loads(text)
        values["started_at"] = dt.datetime.fromisoformat(values["started_at"])
        return cls(**{**values, "queues": tuple(values["queues"]), "tasks": tuple(values["tasks"])})


class Pulse(IntEnum):
    """What Redis answers to a heartbeat."""

    FENCED = 0
    KNOWN = 1
    UNKNOWN = 2


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer to a heartbeat: how it stands with the worker, and who else has been silent for too long."""

    pulse: Pulse
    silent: tuple[str, ...] = ()


class Registry:
    """The register of workers: they write it and look after each other; the relay reads it."""

    def __init__(self, client: redis.Redis, lease: float) -> None:
        self._client = client
        self._lease_ms = int(lease * 1000)
        self._heartbeat = client.register_script(workers.HEARTBEAT)
        self._silent = client.register_script(workers.SILENT)
        self._reap = client.register_script(workers.REAP)

    def heartbeat(self, worker: str, running: Iterable[tuple[str, int]]) -> Heard:
        """Say that `worker` is alive, and which (execution, attempt) it is running."""
        pulse, *silent = self._heartbeat(
            keys=[
                keys.FENCE.format(worker=worker),
                keys.WORKERS,
                keys.WORKER.format(worker=worker),
                keys.RUNNING.format(worker=worker),
                keys.WATCH,
            ],
            args=[worker, self._lease_ms, json.dumps(list(running))],
        )
        return Heard(Pulse(pulse), tuple(silent))

    def running(self) -> set[tuple[str, int]]:
        """Every (execution, attempt) that some live worker says it is running."""
        workers = self._client.zrange(keys.WORKERS, 0, -1)
        texts = self._client.mget([keys.RUNNING.format(worker=worker) for worker in workers]) if workers else []
        return {(execution, attempt) for text in texts if text for execution, attempt in json.loads(text)}

    def announce(self, announcement: Announcement, catalogue: Iterable[Mapping[str, Any]]) -> None:
        """Make the worker and its tasks known."""
        with self._client.pipeline(transaction=True) as pipe:
            name = keys.CATALOGUE.format(digest=announcement.catalogue)
            pipe.set(name, json.dumps(list(catalogue)), ex=_CATALOGUE_TTL)
            pipe.set(keys.WORKER.format(worker=announcement.worker), announcement.to_text(), px=self._lease_ms * 2)
            pipe.execute()

    def leave(self, worker: str) -> None:
        """Say that `worker` stops in good order: it has nothing in hand any more."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.zrem(keys.WORKERS, worker)
            names = (keys.WORKER, keys.RUNNING, keys.INFLIGHT)
            pipe.delete(*(name.format(worker=worker) for name in names))
            pipe.execute()

    def announcements(self) -> list[Announcement]:
        """Every worker whose heartbeat is recent enough to have an announcement."""
        workers = self._client.zrange(keys.WORKERS, 0, -1)
        texts: list[Any] = (
            self._client.mget([keys.WORKER.format(worker=worker) for worker in workers]) if workers else []
        )
        return [Announcement.from_text(text) for text in texts if text]

    def catalogue(self, digest: str) -> list[dict[str, Any]]:
        """The tasks behind a digest; empty if Redis has forgotten them."""
        text = self._client.get(keys.CATALOGUE.format(digest=digest))
        return json.loads(text) if text else []

    def reap_silent(self) -> list[str]:
        """Declare dead whoever has been silent for longer than the lease; answers who that was."""
        silent = self._silent(keys=[keys.WATCH, keys.WORKERS], args=[self._lease_ms])
        return [worker for worker in silent if self.reap(worker)]

    def reap(self, worker: str) -> bool:
        """Fence a silent worker and give back what it had not started. False if it has been heard meanwhile."""
        fields = events.encode(Kind.WORKER_LOST, "", 0, {"worker": worker})
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
                *flat(fields),
            ],
        )
        return bool(answer)
