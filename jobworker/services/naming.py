"""What to tell somebody who asked for a thing that is not there."""

import bisect
import difflib
from collections.abc import Sequence

from jobworker.store.names import FEW

#: So many names are read, no more.
_NAMED = 10


def unknown(noun: str, name: str, known: Sequence[str], how_to_list: str) -> str:
    """A sentence that names what comes closest, and how to see everything.

    `known` are the names around it, in order (`store.names.around`): comparing with all of very many takes seconds.
    """
    shown = name if len(name) <= 128 else f"{name[:128]}…"
    if not known:
        return f"there is no {noun} {shown!r}, nor any other yet: workers announce theirs when they start"
    number = "of them" if len(known) >= FEW else str(len(known))
    return f"there is no {noun} {shown!r}{_near(shown, known)} {how_to_list} lists all {number}"


def undeclared(noun: str, name: str, declared: Sequence[str]) -> str:
    """The same of what code declares, which nothing else lists: the first ten are named."""
    more = f" and {len(declared) - _NAMED} more" if len(declared) > _NAMED else ""
    there = f"{', '.join(declared[:_NAMED])}{more}" if declared else "none"
    return f"code declares no {noun} {name!r}{_near(name, declared)} It declares {there}"


def missing_queue(name: str, existing: Sequence[str]) -> str:
    """The same of a queue that something names; `existing` begins with those that are worth naming."""
    shown = ", ".join(existing[:_NAMED])
    more = " and more (GET /api/v1/queues lists all)" if len(existing) > _NAMED else ""
    near = _near(name, existing)
    return f"there is no queue {name!r}{near} There are {shown}{more}. PUT /api/v1/queues/{name} creates it"


def _near(name: str, known: Sequence[str]) -> str:
    """Those of `known`, which is in order, that come close."""
    at = bisect.bisect(known, name)
    known = known[max(0, at - FEW) : at + FEW]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else "."
