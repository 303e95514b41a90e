"""The configuration of Python's logging in this process, which users' code may change."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: Logger that shows whether `logging.config` was used, which disables all loggers that its configuration omits.
_probe_logger = logging.getLogger("jobworker.canary")


class LoggingState(NamedTuple):
    """The handlers and level of the root logger, the level of `logging.disable`, and the record factory."""

    handlers: list[logging.Handler]
    level: int
    disabled: int
    factory: Callable[..., logging.LogRecord]


def read_logging_state() -> LoggingState:
    """Return the present configuration of logging."""
    root = logging.getLogger()
    return LoggingState(root.handlers[:], root.level, root.manager.disable, logging.getLogRecordFactory())


def restore_logging_state(state: LoggingState) -> None:
    """Restore this configuration of logging, and enable all loggers, if anything has changed."""
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
    """Restore logging and the standard streams after the block; handlers that it adds stay."""
    before, streams = read_logging_state(), (sys.stdout, sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        added = [handler for handler in logging.getLogger().handlers if handler not in before.handlers]
        restore_logging_state(before._replace(handlers=[*before.handlers, *added]))
