"""Leadership among relays, and its takeover by a standby relay; independent of the clocks of other hosts."""

import os
import secrets
import socket

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.relay.steps import NotLeader
from jobworker.store import relay_state
from jobworker.store.database.database import Database
from jobworker.store.relay_state import Tenure

#: Time without a renewal, observed by this relay, after which a leadership counts as silent (s). The leader renews it
#: each second, unless a turn takes longer.
SILENT_AFTER_SECONDS = 3.0


class Leadership:
    """A relay's claim to lead. `name` is unique among relays."""

    def __init__(self, database: Database, clock: Clock) -> None:
        # Host and process id alone are not unique: every container has a process 1, and some have the host's name.
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._database = database
        self._clock = clock
        self._observed_tenure: Tenure | None = None
        self._observed_at = float("-inf")

    def find_silent_leader(self) -> Tenure | None:
        """Return the leadership of another relay that may be taken over; None if no other relay leads.

        Raises `NotLeader` while another leadership is renewed, or was not observed for long enough.
        """
        with self._database.read() as connection:
            tenure = relay_state.get(connection).tenure
        if tenure.leader in (None, self.name):
            return None
        now = self._clock.monotonic()
        if tenure != self._observed_tenure:
            self._observed_tenure, self._observed_at = tenure, now
        if now - self._observed_at < SILENT_AFTER_SECONDS:
            raise NotLeader
        return tenure

    def acquire_or_renew(self, connection: sa.Connection, silent: Tenure | None = None) -> None:
        """Acquire or renew the leadership, replacing the `silent` one; raises `NotLeader`."""
        if not relay_state.acquire_leadership(connection, self.name, self._clock.now(), silent):
            raise NotLeader
