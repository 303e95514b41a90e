"""What to tell somebody who asked for a thing that is not there."""

import difflib
from collections.abc import Sequence


def unknown(noun: str, name: str, known: Sequence[str], how_to_list: str) -> str:
    """A sentence that names what comes closest, and how to see everything."""
    shown = name if len(name) <= 128 else f"{name[:128]}…"
    if not known:
        return f"there is no {noun} {shown!r}, nor any other yet: workers announce theirs when they start"
    close = difflib.get_close_matches(shown, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return f"there is no {noun} {shown!r}{hint} {how_to_list} lists all {len(known)}"
