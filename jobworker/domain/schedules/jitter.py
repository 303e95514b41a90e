"""Keeping what is due together from starting together: by shares that are the same whoever works them out."""

import datetime as dt
import hashlib

#: A share is this many bytes of a digest.
_SHARE_BYTES = 8
_SHARE_RANGE = float(2 ** (8 * _SHARE_BYTES))


def compute_delay(schedule_id: str, nominal: dt.datetime, jitter: float, spread: float) -> dt.timedelta:
    """How much later than its nominal time an occurrence starts: another share of `jitter` (s) each time, and the
    schedule's own share of `spread` (s).
    """
    seconds = spread * _compute_share(schedule_id) if spread else 0.0
    if jitter:
        seconds += jitter * _compute_share(f"{schedule_id} {nominal.astimezone(dt.UTC).isoformat()}")
    return dt.timedelta(seconds=seconds)


def _compute_share(text: str) -> float:
    """From 0 to 1, always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_SHARE_BYTES]) / _SHARE_RANGE
