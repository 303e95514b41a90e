"""Deadline for the start of an execution: an execution that has not started by then is skipped.

The deadline applies to the first attempt only. Once that attempt may have started, the job's retry policy decides.
"""

import datetime as dt
from collections.abc import Iterator

from jobworker.domain.errors import FieldError

#: Maximum time from the due time to the deadline (days): a later deadline is a typing error.
MAX_DEADLINE_DAYS = 3653
_MAX_DEADLINE_SECONDS = MAX_DEADLINE_DAYS * 24 * 3600.0


def compute_deadline(due_at: dt.datetime, expires: float | None) -> dt.datetime | None:
    """Return the deadline of an execution that is due at `due_at`; without `expires` (s) there is no deadline."""
    return due_at + dt.timedelta(seconds=expires) if expires is not None else None


def validate_expires(expires: float | None, where: str) -> Iterator[FieldError]:
    """Yield the problems of a deadline that is given in seconds after the execution is due."""
    if expires is not None and not 0 < expires <= _MAX_DEADLINE_SECONDS:
        yield FieldError(
            f"{where}/expires", "not_allowed", f"expires must be more than 0 and at most {MAX_DEADLINE_DAYS} days"
        )


def validate_expires_at(
    expires_at: dt.datetime, due_at: dt.datetime, now: dt.datetime, where: str
) -> Iterator[FieldError]:
    """Yield the problems of a deadline that is given as a time, for an execution that is due at `due_at`."""
    place = f"{where}/expires_at"
    if expires_at <= now:
        yield FieldError(
            place, "past_time", f"expires_at {expires_at.isoformat()} is in the past; it could never start"
        )
    elif expires_at <= due_at:
        yield FieldError(place, "not_allowed", f"expires_at must be later than {due_at.isoformat()}, when it is due")
    elif (expires_at - due_at).total_seconds() > _MAX_DEADLINE_SECONDS:
        yield FieldError(place, "too_far", f"expires_at is more than {MAX_DEADLINE_DAYS // 365} years after it is due")


def describe_missed_deadline(deadline: dt.datetime) -> str:
    """Return the reason of an execution that was skipped because of its deadline."""
    return f"its deadline {deadline.astimezone(dt.UTC).isoformat()} passed before it started"
