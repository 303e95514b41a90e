"""Who may run an attempt: the record in Redis that makes an attempt start once and end once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis

from jobworker.domain import events
from jobworker.domain.events import Kind
from jobworker.transport import keys, scripts


class Answer(StrEnum):
    """What Redis says to a claim, a finish or a revocation."""

    RUN = "run"
    OK = "ok"
    DUPLICATE = "duplicate"
    STALE = "stale"
    REVOKED = "revoked"
    FENCED = "fenced"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One delivery of one attempt to one worker; `token` tells deliveries apart."""

    execution: str
    attempt: int
    worker: str
    token: str


class Claims:
    """The scripts of a worker and of the relay, on one client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._claim = client.register_script(scripts.CLAIM)
        self._finish = client.register_script(scripts.FINISH)
        self._revoke = client.register_script(scripts.REVOKE)
        self._restore = client.register_script(scripts.RESTORE)
        self._abandon = client.register_script(scripts.ABANDON)

    def claim(self, ticket: Ticket, code_version: str) -> Answer:
        """Ask to start the attempt. RUN also when the same ticket asks again: its answer may have got lost."""
        data = {"worker": ticket.worker, "token": ticket.token, "code_version": code_version}
        return self._report(self._claim, ticket, Kind.RUNNING, data, keys.RUNNING_TTL)

    def finish(self, ticket: Ticket, kind: Kind, data: Mapping[str, Any]) -> Answer:
        """Report how the attempt ended. OK also when it is told twice; STALE if it was no longer ours."""
        full = {"worker": ticket.worker, "token": ticket.token, **data}
        return self._report(self._finish, ticket, kind, full, keys.FINISHED_TTL)

    def revoke(self, execution: str, attempt: int) -> Answer:
        """Make sure that `attempt` never starts: REVOKED, or RUNNING / FINISHED when it has."""
        answer = self._revoke(keys=[keys.RUN.format(execution=execution)], args=[attempt, keys.RUNNING_TTL])
        return Answer(answer)

    def restore(self, ticket: Ticket) -> None:
        """Write the record of a running attempt again after Redis lost it."""
        self._restore(
            keys=[keys.RUN.format(execution=ticket.execution)],
            args=[ticket.attempt, ticket.worker, ticket.token, keys.RUNNING_TTL],
        )

    def abandon(self, execution: str, attempt: int, data: Mapping[str, Any]) -> None:
        """End an attempt that no worker knows of; `data` goes into its `lost` event."""
        fields = events.encode(Kind.LOST, execution, attempt, data)
        self._abandon(
            keys=[keys.RUN.format(execution=execution), keys.EVENTS],
            args=[attempt, keys.FINISHED_TTL, *flat(fields)],
        )

    def _report(self, script: Any, ticket: Ticket, kind: Kind, data: Mapping[str, Any], ttl: int) -> Answer:
        fields = events.encode(kind, ticket.execution, ticket.attempt, data)
        answer = script(
            keys=[keys.RUN.format(execution=ticket.execution), keys.FENCE.format(worker=ticket.worker), keys.EVENTS],
            args=[ticket.attempt, ticket.worker, ticket.token, ttl, *flat(fields)],
        )
        return Answer(answer)


def flat(fields: Mapping[str, str]) -> list[str]:
    """`{"a": "1"}` → `["a", "1"]`, as XADD takes it."""
    return [item for pair in fields.items() for item in pair]
