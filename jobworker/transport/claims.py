"""Claims: the records in Redis that make an attempt start once and end once.

Workers write them as they fetch, start and end attempts (`transport.broker`); this module has the relay's operations.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import redis

from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.transport import keys
from jobworker.transport.scripts import attempts

#: Maximum number of messages of one list that one script scans, because Redis does nothing else meanwhile.
_MAX_SCANNED_MESSAGES = 5000


class ClaimResult(StrEnum):
    """The result of a start, an end or a revocation in Redis."""

    RUN = "run"
    DUPLICATE = "duplicate"
    STALE = "stale"
    REVOKED = "revoked"
    RUNNING = "running"
    FINISHED = "finished"


class Claim(NamedTuple):
    """The claim of a worker to one delivery of an attempt; `token` distinguishes deliveries."""

    execution: str
    attempt: int
    worker: str
    token: str


class Claims:
    """The scripts that change claims from outside a worker, on one client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._revoke = client.register_script(attempts.REVOKE)
        self._restore = client.register_script(attempts.RESTORE)
        self._withdraw = client.register_script(attempts.WITHDRAW)
        self._abandon = client.register_script(attempts.ABANDON)

    def revoke(self, attempts: Sequence[tuple[str, int]]) -> list[ClaimResult]:
        """Revoke these (execution, attempt) pairs, so that they never start, in one round trip.

        Returns for each REVOKED, or its progress: RUNNING or FINISHED. RUNNING also covers a message that a worker has
        only fetched; the worker starts or returns it within a quarter of a second. Raises `redis.RedisError`, with some
        of the pairs perhaps revoked.
        """
        if not attempts:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for execution, attempt in attempts:
                run = keys.RUN.format(execution=execution)
                self._revoke(keys=[run], args=[execution, attempt, keys.RUNNING_TTL], client=pipe)
            return [ClaimResult(answer) for answer in pipe.execute()]

    def withdraw(self, lists: Sequence[str]) -> list[tuple[str, int]]:
        """Remove JobWorker's messages from these lists; return the (execution, attempt) of each. Foreign messages stay.

        Of a list that is very long because of foreign messages, only a part is scanned.
        """
        answer = self._withdraw(keys=list(lists), args=[_MAX_SCANNED_MESSAGES])
        return [(execution, int(attempt)) for execution, attempt in zip(answer[::2], answer[1::2], strict=True)]

    def restore(self, claim: Claim) -> None:
        """Write the claim of an attempt that a worker has in flight again, after Redis lost it."""
        self._restore(
            keys=[keys.RUN.format(execution=claim.execution)],
            args=[claim.execution, claim.attempt, claim.worker, claim.token, keys.RUNNING_TTL],
        )

    def abandon(self, execution: str, attempt: int, data: Mapping[str, Any], kind: EventKind = EventKind.LOST) -> None:
        """End an attempt that no worker runs; `data` and `kind` are those of its event."""
        fields = events.encode(kind, execution, attempt, data)
        self._abandon(
            keys=[keys.RUN.format(execution=execution), keys.EVENTS],
            args=[execution, attempt, keys.FINISHED_TTL, *flatten(fields)],
        )


def flatten(fields: Mapping[str, str]) -> list[str]:
    """Return `["a", "1"]` for `{"a": "1"}`: the argument format of XADD."""
    return [item for pair in fields.items() for item in pair]
