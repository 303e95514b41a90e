"""Control slots: shared memory through which a worker's parent process and a running attempt exchange control data.

The parent process marks the attempt as cancelled or its soft time limit as passed; the attempt writes the number of
seconds by which it has extended its limits. On prefork the control table is memory that all processes share, allocated
before the first fork: neither side waits for the other, and nothing goes over the network. On other pools the job runs
in the worker's own process, and a control slot is an object.

Each delivery of an attempt has a number, and each mark in a control slot carries the number of its delivery. So a mark
that comes too late does not reach the next job.
"""

import mmap
from typing import Any

from celery import current_task
from celery.exceptions import SoftTimeLimitExceeded

#: Maximum number of processes in one pool.
MAX_SLOTS = 4096

#: Fields of a control slot, of eight bytes each: the delivery that occupies the slot, the cancelled delivery, the
#: delivery whose soft limit passed (numbers of deliveries), that soft limit, and the extension of the limits (seconds).
#: A slot has eight fields, so that no two slots share a cache line.
_OCCUPANT, _CANCELLED, _TIMED_OUT, _LIMIT, _EXTENSION = range(5)
_WORDS_PER_SLOT = 8
_WORD_SIZE = 8


def parse_token(token: str) -> int:
    """Return the number of a delivery from its token: digits, or up to 16 hexadecimal ones."""
    return int(token, 16)


class ControlSlot:
    """The control slot of an attempt that runs in a process of the pool."""

    __slots__ = ("_base", "_number", "_table", "limit_passed")

    def __init__(self, table: "ControlTable", index: int, token: str) -> None:
        self._table = table
        self._base = index * _WORDS_PER_SLOT
        self._number = parse_token(token)
        #: Soft limit (s) that has passed, set when the exception is raised in the job.
        self.limit_passed: float | None = None
        table.seconds[self._base + _EXTENSION] = 0.0
        table.numbers[self._base + _OCCUPANT] = self._number

    @property
    def cancelled(self) -> bool:
        """True if a cancellation of this attempt was requested."""
        return bool(self._table.numbers[self._base + _CANCELLED] == self._number)

    def extend(self, seconds: float) -> None:
        """Extend the time limits of this attempt; do nothing when the attempt is over."""
        if self._table.numbers[self._base + _OCCUPANT] == self._number:
            self._table.seconds[self._base + _EXTENSION] += seconds

    def release(self) -> None:
        """Release the slot after the job, so that its soft limit is not raised any more."""
        self._table.current_slot = None

    def raise_if_timed_out(self) -> None:
        """Raise `SoftTimeLimitExceeded` if the soft limit of this attempt has passed."""
        if self._table.numbers[self._base + _TIMED_OUT] == self._number:
            self.limit_passed = self._table.seconds[self._base + _LIMIT]
            raise SoftTimeLimitExceeded(f"the soft time limit of {self.limit_passed:g} s passed")


class LocalControlSlot:
    """The control slot of an attempt that runs in the worker's own process: in a thread, a greenlet, or on solo."""

    __slots__ = ("_on_release", "cancelled", "limit_passed")

    def __init__(self, on_release: Any) -> None:
        self.cancelled = False
        self.limit_passed: float | None = None
        self._on_release = on_release

    def extend(self, seconds: float) -> None:
        """Do nothing, because these pools enforce no time limits."""

    def release(self) -> None:
        """Release the slot after the job."""
        self._on_release()


class ControlTable:
    """The control slots of one worker. Created before the pool."""

    def __init__(self, slots: int = MAX_SLOTS) -> None:
        # Pages that are never accessed use no memory.
        memory = memoryview(mmap.mmap(-1, slots * _WORDS_PER_SLOT * _WORD_SIZE))
        self.numbers = memory.cast("Q")
        self.seconds = memory.cast("d")
        #: In a process of the pool: the control slot of the attempt that runs now.
        self.current_slot: ControlSlot | None = None
        self._index: int | None = None
        self._local_slots: dict[str, LocalControlSlot] = {}

    # --- where jobs run ---------------------------------------------------------------------------------------

    def bind_process(self, index: int) -> None:
        """Bind this table to this process of the pool; attempts use the slot of its `index`, which counts from 0."""
        self._index = index

    def acquire(self, token: str) -> ControlSlot | LocalControlSlot:
        """Return the control slot for an attempt that begins in this process."""
        if self._index is not None:
            self.current_slot = ControlSlot(self, self._index, token)
            return self.current_slot
        slot = LocalControlSlot(lambda: self._local_slots.pop(token, None))
        self._local_slots[token] = slot
        return slot

    def on_soft_limit(self, *_: Any) -> None:
        """Handle SIGUSR1 in a process of the pool: raise `SoftTimeLimitExceeded` in the attempt that runs there."""
        if self.current_slot is not None:
            self.current_slot.raise_if_timed_out()
        elif current_task:
            raise SoftTimeLimitExceeded  # A plain Celery task has no control slot.

    # --- where jobs are watched -------------------------------------------------------------------------------

    def mark_cancelled(self, token: str, index: int | None) -> None:
        """Mark an attempt as cancelled; `index` is that of its process, None if the attempt runs in this process."""
        if index is not None:
            self.numbers[index * _WORDS_PER_SLOT + _CANCELLED] = parse_token(token)
        elif slot := self._local_slots.get(token):
            slot.cancelled = True

    def mark_timed_out(self, token: str, index: int, limit: float) -> None:
        """Mark the soft limit (s) of an attempt as passed, before SIGUSR1 is sent."""
        self.seconds[index * _WORDS_PER_SLOT + _LIMIT] = limit
        self.numbers[index * _WORDS_PER_SLOT + _TIMED_OUT] = parse_token(token)

    def get_extension(self, token: str, index: int) -> float:
        """Return the number of seconds by which an attempt has extended its limits."""
        if self.numbers[index * _WORDS_PER_SLOT + _OCCUPANT] != parse_token(token):
            return 0.0
        extended: float = self.seconds[index * _WORDS_PER_SLOT + _EXTENSION]
        return extended
