"""How a running job and its worker's parent process talk: a desk with a seat for each process of the pool.

The parent says that the attempt is cancelled, or that its soft time limit has passed; the job says by how many
seconds it has extended its limits. On prefork this is memory that all processes share, made before the first
fork: neither side ever waits for the other, and nothing goes over the network. On other pools the job runs in the same
process, and a seat is an object.

Each delivery of an attempt has its number, and what is said at a seat carries the number of whom it is about.
So nothing that comes too late reaches the next job.
"""

import mmap
from typing import Any

from celery import current_task
from celery.exceptions import SoftTimeLimitExceeded

#: Processes that one pool can have.
SEATS = 4096

#: A seat's words, of eight bytes each: who sits there, who is cancelled, whose soft limit passed (numbers of
#: deliveries), how long that was, and by how much its limits are extended (seconds). Eight, so that no two seats
#: share a cache line.
_SITTING, _CANCELLED, _STRUCK, _LIMIT, _EXTENDED = range(5)
_WORDS = 8
_BYTES = 8


def number_of(token: str) -> int:
    """The number of a delivery, from its token: digits, or up to 16 hexadecimal ones."""
    return int(token, 16)


class Seat:
    """Where one attempt sits that runs in a process of the pool."""

    __slots__ = ("_base", "_table", "_number", "limit_passed")

    def __init__(self, desk: "Desk", index: int, token: str) -> None:
        self._table = desk
        self._base = index * _WORDS
        self._number = number_of(token)
        #: The soft limit (s) that has passed, once it was raised in the job.
        self.limit_passed: float | None = None
        desk.seconds[self._base + _EXTENDED] = 0.0
        desk.numbers[self._base + _SITTING] = self._number

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants this attempt stopped."""
        return bool(self._table.numbers[self._base + _CANCELLED] == self._number)

    def extend(self, seconds: float) -> None:
        """Move the time limits of this attempt; nothing happens when it is over."""
        if self._table.numbers[self._base + _SITTING] == self._number:
            self._table.seconds[self._base + _EXTENDED] += seconds

    def release(self) -> None:
        """The job is over: its soft limit does not reach it any more."""
        self._table.current_slot = None

    def raise_if_timed_out(self) -> None:
        """Raise `SoftTimeLimitExceeded` if it is this attempt whose limit passed."""
        if self._table.numbers[self._base + _STRUCK] == self._number:
            self.limit_passed = self._table.seconds[self._base + _LIMIT]
            raise SoftTimeLimitExceeded(f"the soft time limit of {self.limit_passed:g} s passed")


class NearSeat:
    """Where one attempt sits that runs in the worker's own process: in a thread, a greenlet, or alone."""

    __slots__ = ("_on_release", "cancelled", "limit_passed")

    def __init__(self, leave: Any) -> None:
        self.cancelled = False
        self.limit_passed: float | None = None
        self._on_release = leave

    def extend(self, seconds: float) -> None:
        """Nothing to move: here nobody keeps a time limit."""

    def release(self) -> None:
        """The job is over."""
        self._on_release()


class Desk:
    """All seats of one worker. Made before the pool is."""

    def __init__(self, seats: int = SEATS) -> None:
        memory = memoryview(mmap.mmap(-1, seats * _WORDS * _BYTES))  # Pages that nobody touches cost nothing.
        self.numbers = memory.cast("Q")
        self.seconds = memory.cast("d")
        #: In a process of the pool: who sits there now.
        self.current_slot: Seat | None = None
        self._index: int | None = None
        self._local_slots: dict[str, NearSeat] = {}

    # --- where jobs run ---------------------------------------------------------------------------------------

    def bind_process(self, index: int) -> None:
        """This is the process of the pool with that index, from 0: who sits down here has its seat."""
        self._index = index

    def acquire(self, token: str) -> Seat | NearSeat:
        """The seat for the attempt that begins here and now."""
        if self._index is not None:
            self.current_slot = Seat(self, self._index, token)
            return self.current_slot
        seat = NearSeat(lambda: self._local_slots.pop(token, None))
        self._local_slots[token] = seat
        return seat

    def on_soft_limit(self, *_: Any) -> None:
        """The handler of SIGUSR1 in a process of the pool. Raises `SoftTimeLimitExceeded` in what runs there."""
        if self.current_slot is not None:
            self.current_slot.raise_if_timed_out()
        elif current_task:
            raise SoftTimeLimitExceeded  # A plain Celery task has no seat.

    # --- where jobs are watched -------------------------------------------------------------------------------

    def mark_cancelled(self, token: str, index: int | None) -> None:
        """Tell an attempt that it is cancelled; `index` of its process, or None if it runs in this one."""
        if index is not None:
            self.numbers[index * _WORDS + _CANCELLED] = number_of(token)
        elif seat := self._local_slots.get(token):
            seat.cancelled = True

    def mark_timed_out(self, token: str, index: int, limit: float) -> None:
        """Say whose soft limit (s) has passed, before SIGUSR1 is sent."""
        self.seconds[index * _WORDS + _LIMIT] = limit
        self.numbers[index * _WORDS + _STRUCK] = number_of(token)

    def get_extension(self, token: str, index: int) -> float:
        """By how many seconds an attempt has extended its limits."""
        if self.numbers[index * _WORDS + _SITTING] != number_of(token):
            return 0.0
        extended: float = self.seconds[index * _WORDS + _EXTENDED]
        return extended
