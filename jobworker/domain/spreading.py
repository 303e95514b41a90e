"""Keeping what is due together from starting together: by shares that are the same whoever works them out."""

import datetime as dt
import hashlib

#: A share is this many bytes of a digest.
_BYTES = 8
_MOST = float(2 ** (8 * _BYTES))


def delay(schedule_id: str, nominal: dt.datetime, jitter: float, spread: float) -> dt.timedelta:
    """How much later than its nominal time an occurrence starts: another share of `jitter` (s) each time, and the
    schedule's own share of `spread` (s).
    """
    seconds = spread * _share(schedule_id) if spread else 0.0
    if jitter:
        seconds += jitter * _share(f"{schedule_id} {nominal.astimezone(dt.UTC).isoformat()}")
    return dt.timedelta(seconds=seconds)


def _share(text: str) -> float:
    """From 0 to 1, always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_BYTES]) / _MOST
