"""Python's logging as it is configured in this process, which code of users may change."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: `logging.config` disables loggers that it is not told of, and so this one, too.
_canary = logging.getLogger("jobworker.canary")


class State(NamedTuple):
    """Handlers and level of the root logger, what `logging.disable` was told, and what makes records."""

    handlers: list[logging.Handler]
    level: int
    disabled: int
    factory: Callable[..., logging.LogRecord]


def state() -> State:
    """Return how logging is configured now."""
    root = logging.getLogger()
    return State(root.handlers[:], root.level, root.manager.disable, logging.getLogRecordFactory())


def restore(wanted: State) -> None:
    """Configure logging like this again, and enable all loggers, if anything has changed."""
    if state() == wanted and not _canary.disabled:
        return
    root = logging.getLogger()
    root.handlers[:] = wanted.handlers
    root.setLevel(wanted.level)
    logging.disable(wanted.disabled)
    logging.setLogRecordFactory(wanted.factory)
    for logger in [_canary, *logging.Logger.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep logging and the standard streams as they are, whatever the block does; handlers that it adds stay."""
    before, streams = state(), (sys.stdout, sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        added = [handler for handler in logging.getLogger().handlers if handler not in before.handlers]
        restore(before._replace(handlers=[*before.handlers, *added]))
