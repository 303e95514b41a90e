"""Structured logs: text for people, JSON for machines, the same facts in both."""

import logging
import sys
from typing import TextIO

import structlog

from jobworker.domain.zones import DATA_VERSION


def configure(log_format: str, log_level: str | int, process: str, stream: TextIO = sys.stderr) -> None:
    """Set up structlog and the standard library's logging for one process.

    `process` (web, relay, …) is on every line. Call once, at the entry.
    """

    def name_process(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = process
        return event

    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # It would speak at every look at the schema.


def log_start() -> None:
    """Log that this process starts, with what should be the same on every host."""
    structlog.get_logger(__name__).info("process_starts", time_zone_data=DATA_VERSION)


def _renderers(log_format: str, stream: TextIO) -> list[structlog.types.Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # Plain tracebacks: the rich ones show local variables, and with them what must not be in a log.
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
