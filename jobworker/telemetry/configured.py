"""Python's logging as it is configured in this process, which code of users may change."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: `logging.config` disables loggers that it is not told of, and so this one, too.
_probe_logger = logging.getLogger("jobworker.canary")


class LoggingState(NamedTuple):
    """Handlers and level of the root logger, what `logging.disable` was told, and what makes records."""

    handlers: list[logging.Handler]
    level: int
    disabled: int
    factory: Callable[..., logging.LogRecord]


def read_logging_state() -> LoggingState:
    """Return how logging is configured now."""
    root = logging.getLogger()
    return LoggingState(root.handlers[:], root.level, root.manager.disable, logging.getLogRecordFactory())


def restore_logging_state(state: LoggingState) -> None:
    """Configure logging like this again, and enable all loggers, if anything has changed."""
    if read_logging_state() == state and not _probe_logger.disabled:
        return
    root = logging.getLogger()
    root.handlers[:] = state.handlers
    root.setLevel(state.level)
    logging.disable(state.disabled)
    logging.setLogRecordFactory(state.factory)
    for logger in [_probe_logger, *logging.Logger.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@contextlib.contextmanager
def preserve_logging_state() -> Iterator[None]:
    """Keep logging and the standard streams as they are, whatever the block does; handlers that it adds stay."""
    before, streams = read_logging_state(), (sys.stdout, sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        added = [handler for handler in logging.getLogger().handlers if handler not in before.handlers]
        restore_logging_state(before._replace(handlers=[*before.handlers, *added]))
