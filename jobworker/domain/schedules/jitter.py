"""Jitter and spread: deterministic delays that keep occurrences which are due together from starting together."""

import datetime as dt
import hashlib

#: Number of digest bytes that a share is computed from.
_SHARE_BYTES = 8
_SHARE_RANGE = float(2 ** (8 * _SHARE_BYTES))


def compute_delay(schedule_id: str, nominal: dt.datetime, jitter: float, spread: float) -> dt.timedelta:
    """Return the delay of an occurrence's start after its nominal time.

    The delay is the sum of a share of `jitter` (s) that differs for each occurrence, and a share of `spread` (s) that
    is fixed for the schedule.
    """
    seconds = spread * _compute_share(schedule_id) if spread else 0.0
    if jitter:
        seconds += jitter * _compute_share(f"{schedule_id} {nominal.astimezone(dt.UTC).isoformat()}")
    return dt.timedelta(seconds=seconds)


def _compute_share(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_SHARE_BYTES]) / _SHARE_RANGE
