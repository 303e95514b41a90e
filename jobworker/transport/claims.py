"""Who may run an attempt: the record in Redis that makes an attempt start once and end once.

Workers write it as they fetch, start and end (`mailbox.py`); here is what the relay does to it.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import redis

from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.transport import keys
from jobworker.transport.scripts import attempts

#: So many messages of one list are looked at in one step: Redis does nothing else meanwhile.
_MAX_SCANNED_MESSAGES = 5000


class ClaimResult(StrEnum):
    """What Redis says to a start, an end or a revocation."""

    RUN = "run"
    DUPLICATE = "duplicate"
    STALE = "stale"
    REVOKED = "revoked"
    RUNNING = "running"
    FINISHED = "finished"


class Claim(NamedTuple):
    """One delivery of one attempt to one worker; `token` tells deliveries apart."""

    execution: str
    attempt: int
    worker: str
    token: str


class Claims:
    """The scripts that decide over attempts from outside a worker, on one client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._revoke = client.register_script(attempts.REVOKE)
        self._restore = client.register_script(attempts.RESTORE)
        self._take_back = client.register_script(attempts.WITHDRAW)
        self._abandon = client.register_script(attempts.ABANDON)

    def revoke(self, attempts: Sequence[tuple[str, int]]) -> list[ClaimResult]:
        """Make sure that these (execution, attempt) never start, in one round trip.

        Returns of each REVOKED, or how far it is: RUNNING, FINISHED. RUNNING also when a worker has only fetched it; it
        starts or goes back within a quarter of a second. Raises `redis.RedisError`, some of them perhaps revoked.
        """
        if not attempts:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for execution, attempt in attempts:
                run = keys.RUN.format(execution=execution)
                self._revoke(keys=[run], args=[execution, attempt, keys.RUNNING_TTL], client=pipe)
            return [ClaimResult(answer) for answer in pipe.execute()]

    def withdraw(self, lists: Sequence[str]) -> list[tuple[str, int]]:
        """Take our messages out of these lists; the (execution, attempt) of each. Others' messages stay.

        Of a list that is very long, because others use it, only a part is looked at.
        """
        found = self._take_back(keys=list(lists), args=[_MAX_SCANNED_MESSAGES])
        return [(execution, int(attempt)) for execution, attempt in zip(found[::2], found[1::2], strict=True)]

    def restore(self, claim: Claim) -> None:
        """Write the record of an attempt that a worker has in hand again after Redis lost it."""
        self._restore(
            keys=[keys.RUN.format(execution=claim.execution)],
            args=[claim.execution, claim.attempt, claim.worker, claim.token, keys.RUNNING_TTL],
        )

    def abandon(self, execution: str, attempt: int, data: Mapping[str, Any], kind: EventKind = EventKind.LOST) -> None:
        """End an attempt that no worker knows of; `data` goes into its event, which is of this kind."""
        fields = events.encode(kind, execution, attempt, data)
        self._abandon(
            keys=[keys.RUN.format(execution=execution), keys.EVENTS],
            args=[execution, attempt, keys.FINISHED_TTL, *flatten(fields)],
        )


def flatten(fields: Mapping[str, str]) -> list[str]:
    """`{"a": "1"}` → `["a", "1"]`, as XADD takes it."""
    return [item for pair in fields.items() for item in pair]
