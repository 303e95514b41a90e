"""What to tell somebody who asked for a thing that is not there."""

import bisect
import difflib
from collections.abc import Sequence

from jobworker.store.similar_names import MAX_NAMES

#: So many names are read, no more.
_MAX_NAMES_SHOWN = 10


def describe_unknown(noun: str, name: str, names: Sequence[str], how_to_list: str) -> str:
    """A sentence that names what comes closest, and how to see everything.

    `names` are the names around it, in order (`store.similar_names.around`): comparing with all of very many takes seconds.
    """
    shown = name if len(name) <= 128 else f"{name[:128]}…"
    if not names:
        return f"there is no {noun} {shown!r}, nor any other yet: workers announce theirs when they start"
    number = "of them" if len(names) >= MAX_NAMES else str(len(names))
    return f"there is no {noun} {shown!r}{_suggest_names(shown, names)} {how_to_list} lists all {number}"


def describe_undeclared(noun: str, name: str, declared: Sequence[str]) -> str:
    """The same of what code declares, which nothing else lists: the first ten are named."""
    more = f" and {len(declared) - _MAX_NAMES_SHOWN} more" if len(declared) > _MAX_NAMES_SHOWN else ""
    there = f"{', '.join(declared[:_MAX_NAMES_SHOWN])}{more}" if declared else "none"
    return f"code declares no {noun} {name!r}{_suggest_names(name, declared)} It declares {there}"


def describe_missing_queue(name: str, existing: Sequence[str]) -> str:
    """The same of a queue that something names; `existing` begins with those that are worth naming."""
    shown = ", ".join(existing[:_MAX_NAMES_SHOWN])
    more = " and more (GET /api/v1/queues lists all)" if len(existing) > _MAX_NAMES_SHOWN else ""
    near = _suggest_names(name, existing)
    return f"there is no queue {name!r}{near} There are {shown}{more}. PUT /api/v1/queues/{name} creates it"


def _suggest_names(name: str, names: Sequence[str]) -> str:
    """Those of `names`, which is in order, that come close."""
    at = bisect.bisect(names, name)
    names = names[max(0, at - MAX_NAMES) : at + MAX_NAMES]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else "."
