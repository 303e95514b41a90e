"""What `jobworker up` shows: each line with the time and the process it comes from, each process in its colour."""

import sys
from collections.abc import Iterable
from typing import Any

from honcho.colour import get_colours
from honcho.printer import Message, Printer

from jobworker.clock import Clock

#: The supervisor's own lines.
OURSELVES = "up"


class _Screen:
    """Standard output as it is at this moment: progress bars put themselves in its place."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()

    def isatty(self) -> bool:
        return sys.stdout.isatty()


class Output:
    """Prefixes lines and prints them."""

    def __init__(self, clock: Clock, names: Iterable[str]) -> None:
        self._clock = clock
        self._printer: Any = Printer(output=_Screen(), width=max(map(len, (OURSELVES, *names))))
        self._palette = get_colours()
        self._colours: dict[str, str | None] = {OURSELVES: None}

    def lines(self, name: str, lines: Iterable[bytes | str]) -> None:
        """Print what `name` wrote."""
        if name not in self._colours:
            self._colours[name] = next(self._palette)
        for line in lines:
            self._printer.write(Message("line", line, self._clock.now().astimezone(), name, self._colours[name]))

    def say(self, text: str) -> None:
        """Print what the supervisor has to say."""
        self.lines(OURSELVES, [text])
