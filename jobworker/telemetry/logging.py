"""Structured logs: text for people, JSON for machines, with equal content."""

import io
import json
import logging
import select
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

import structlog

from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.telemetry import plain_text
from jobworker.telemetry.plain_text import PlainTextStream


class _LossyFile(io.FileIO):
    """A file or stream that drops data that cannot be written (full disk, closed pipe), and notes the loss later."""

    _lost_bytes = 0
    _loss_reason = ""

    def write(self, data: Any) -> int:
        """Write or drop the data; never raise."""
        try:
            if self._lost_bytes:
                self._wait_and_write(f"({self._lost_bytes} bytes of output were lost: {self._loss_reason})\n".encode())
                self._lost_bytes = 0
            return self._wait_and_write(data)
        except OSError as error:
            size = memoryview(data).nbytes
            self._lost_bytes += size
            self._loss_reason = error.strerror or str(error)
            return size

    def _wait_and_write(self, data: Any) -> int:
        while (written := super().write(data)) is None:  # Another program has made the pipe or terminal non-blocking.
            poller = select.poll()  # Unlike select, it takes descriptors above 1,023.
            poller.register(self, select.POLLOUT)
            poller.poll()
        return written


def open_lossy_stream(file: int | Path) -> TextIO:
    """Return a text stream that appends to a descriptor or file, and drops text that cannot be written."""
    raw = _LossyFile(file, "a", closefd=not isinstance(file, int))
    return PlainTextStream(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def tolerate_output_errors() -> None:
    """Let this process continue when its standard output or error cannot be written."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        # None: the stream was closed before the process began. Another stream was set on purpose.
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, open_lossy_stream(descriptor))
            setattr(sys, f"__{name}__", getattr(sys, name))


def shorten_warnings() -> None:
    """Format each of Python's warnings in one line: place, category, text."""

    def format_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,  # noqa: ARG001  the source line; Python passes it by position or by name
    ) -> str:
        return f"{filename}:{lineno}: {category.__name__}: {' '.join(str(message).split())}\n"

    warnings.formatwarning = format_warning


def configure(log_format: str, log_level: str | int, process: str, stream: TextIO | None = None) -> None:
    """Configure structlog and the standard library's logging for one process.

    `process` (web, relay, …) is on every line. `stream` is standard error by default. Called once, when the process
    starts.
    """
    stream = stream or sys.stderr

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
                *_build_renderers(log_format, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # It logs each look at the schema at INFO.


def log_process_start() -> None:
    """Log the start of this process, with values that should be equal on every host."""
    structlog.get_logger(__name__).info("process_starts", time_zone_data=DATA_VERSION)


def _serialize_event(event: structlog.types.EventDict, **options: Any) -> str:
    return plain_text.escape_json(json.dumps(event, **options))


def _build_renderers(log_format: str, stream: TextIO) -> list[structlog.types.Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_serialize_event)]

    # Jobs log arbitrary text, with loggers and exceptions of any name.
    def escape(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["event"] = str(event["event"])
        return {name: plain_text.escape(value) if isinstance(value, str) else value for name, value in event.items()}

    # Plain tracebacks, because the rich ones show local variables, which may be secret.
    console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)

    def render(logger: structlog.types.WrappedLogger, method: str, event: structlog.types.EventDict) -> str:
        return plain_text.indent(console(logger, method, event))

    return [structlog.processors.format_exc_info, escape, render]
