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
MAX_SLOTS = 4096

#: A seat's words, of eight bytes each: who sits there, who is cancelled, whose soft limit passed (numbers of
#: deliveries), how long that was, and by how much its limits are extended (seconds). Eight, so that no two seats
#: share a cache line.
_OCCUPANT, _CANCELLED, _TIMED_OUT, _LIMIT, _EXTENSION = range(5)
_WORDS_PER_SLOT = 8
_WORD_SIZE = 8


def parse_token(token: str) -> int:
    """The number of a delivery, from its token: digits, or up to 16 hexadecimal ones."""
    return int(token, 16)


class ControlSlot:
    """Where one attempt sits that runs in a process of the pool."""

    __slots__ = ("_base", "_number", "_table", "limit_passed")

    def __init__(self, table: "ControlTable", index: int, token: str) -> None:
        self._table = table
        self._base = index * _WORDS_PER_SLOT
        self._number = parse_token(token)
        #: The soft limit (s) that has passed, once it was raised in the job.
        self.limit_passed: float | None = None
        table.seconds[self._base + _EXTENSION] = 0.0
        table.numbers[self._base + _OCCUPANT] = self._number

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants this attempt stopped."""
        return bool(self._table.numbers[self._base + _CANCELLED] == self._number)

    def extend(self, seconds: float) -> None:
        """Move the time limits of this attempt; nothing happens when it is over."""
        if self._table.numbers[self._base + _OCCUPANT] == self._number:
            self._table.seconds[self._base + _EXTENSION] += seconds

    def release(self) -> None:
        """The job is over: its soft limit does not reach it any more."""
        self._table.current_slot = None

    def raise_if_timed_out(self) -> None:
        """Raise `SoftTimeLimitExceeded` if it is this attempt whose limit passed."""
        if self._table.numbers[self._base + _TIMED_OUT] == self._number:
            self.limit_passed = self._table.seconds[self._base + _LIMIT]
            raise SoftTimeLimitExceeded(f"the soft time limit of {self.limit_passed:g} s passed")


class LocalControlSlot:
    """Where one attempt sits that runs in the worker's own process: in a thread, a greenlet, or alone."""

    __slots__ = ("_on_release", "cancelled", "limit_passed")

    def __init__(self, on_release: Any) -> None:
        self.cancelled = False
        self.limit_passed: float | None = None
        self._on_release = on_release

    def extend(self, seconds: float) -> None:
        """Nothing to move: here nobody keeps a time limit."""

    def release(self) -> None:
        """The job is over."""
        self._on_release()


class ControlTable:
    """All seats of one worker. Made before the pool is."""

    def __init__(self, slots: int = MAX_SLOTS) -> None:
        memory = memoryview(
            mmap.mmap(-1, slots * _WORDS_PER_SLOT * _WORD_SIZE)
        )  # Pages that nobody touches cost nothing.
        self.numbers = memory.cast("Q")
        self.seconds = memory.cast("d")
        #: In a process of the pool: who sits there now.
        self.current_slot: ControlSlot | None = None
        self._index: int | None = None
        self._local_slots: dict[str, LocalControlSlot] = {}

    # --- where jobs run ---------------------------------------------------------------------------------------

    def bind_process(self, index: int) -> None:
        """This is the process of the pool with that index, from 0: who sits down here has its seat."""
        self._index = index

    def acquire(self, token: str) -> ControlSlot | LocalControlSlot:
        """The seat for the attempt that begins here and now."""
        if self._index is not None:
            self.current_slot = ControlSlot(self, self._index, token)
            return self.current_slot
        seat = LocalControlSlot(lambda: self._local_slots.pop(token, None))
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
            self.numbers[index * _WORDS_PER_SLOT + _CANCELLED] = parse_token(token)
        elif seat := self._local_slots.get(token):
            seat.cancelled = True

    def mark_timed_out(self, token: str, index: int, limit: float) -> None:
        """Say whose soft limit (s) has passed, before SIGUSR1 is sent."""
        self.seconds[index * _WORDS_PER_SLOT + _LIMIT] = limit
        self.numbers[index * _WORDS_PER_SLOT + _TIMED_OUT] = parse_token(token)

    def get_extension(self, token: str, index: int) -> float:
        """By how many seconds an attempt has extended its limits."""
        if self.numbers[index * _WORDS_PER_SLOT + _OCCUPANT] != parse_token(token):
            return 0.0
        extended: float = self.seconds[index * _WORDS_PER_SLOT + _EXTENSION]
        return extended
