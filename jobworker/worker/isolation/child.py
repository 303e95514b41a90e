"""The child process of one isolated attempt: `python -m jobworker.worker.isolation.child`, started by `parent`.

It is a worker for one job: Celery's own tracer runs the job, with the same environment as in a process of the pool. The
difference is that it communicates with the process that started it, not with Redis.
"""

import json
import logging
import os
import signal
import sys
import threading
from typing import Any, BinaryIO

from celery.app.utils import find_app

from jobworker.clock import SystemClock
from jobworker.settings import Settings
from jobworker.telemetry import logging as own_logging
from jobworker.transport.broker.in_flight import InFlight
from jobworker.transport.broker.report_outbox import ReportOutbox
from jobworker.transport.client import connect_redis
from jobworker.worker.attempt import outcome
from jobworker.worker.attempt.log_sender import LogSender, StatusSource, StreamEntry
from jobworker.worker.attempt.runner import AttemptRunner
from jobworker.worker.celery import tracer
from jobworker.worker.celery.task import JobTask
from jobworker.worker.control.slots import ControlSlot, ControlTable
from jobworker.worker.isolation import subreaper
from jobworker.worker.isolation.protocol import MessageWriter, RunRequest

#: Argument of `celery -A` when a worker is started.
_APP_MODULE = "jobworker"

_SLOT = 0


class ForwardingLogSender(LogSender):
    """A log sender that forwards log lines, progress and metadata to the parent process, which limits their size."""

    def __init__(self, messages: MessageWriter) -> None:
        self._messages = messages

    def add_entry(self, entry: StreamEntry, size: int, always: bool = False) -> bool:
        """Forward a log line, or the number of lines that the log cannot hold."""
        data = json.loads(entry["data"])
        if "message" in data:
            self._messages.send("line", [data["message"], data["level"], data["logger"], data["at"]])
        else:
            self._messages.send("dropped", data["dropped"])
        return True

    def add_source(self, source: StatusSource) -> None:
        """Forward progress, or metadata."""
        for entry in source.take_updates():
            self._messages.send(entry["kind"], json.loads(entry["data"]))

    def is_own_thread(self) -> bool:
        """Return False, because this sender has no thread."""
        return False

    def flush(self) -> None:
        """Do nothing, because nothing is buffered."""

    def remove_source(self, source: StatusSource) -> None:
        """Do nothing, because no source is registered."""

    def reset_after_fork(self) -> None:
        """Reset the message writer; this sender has no state of its own."""
        self._messages.reset_after_fork()


class _ForwardingControlSlot(ControlSlot):
    """A control slot that forwards extensions of the time limits to the parent process."""

    __slots__ = ("_messages",)

    def __init__(self, table: ControlTable, token: str, messages: MessageWriter) -> None:
        super().__init__(table, _SLOT, token)
        self._messages = messages

    def extend(self, seconds: float) -> None:
        super().extend(seconds)
        self._messages.send("extended", seconds)


class ForwardingControlTable(ControlTable):
    """The control table of a process with one slot."""

    def __init__(self, messages: MessageWriter) -> None:
        super().__init__(slots=_SLOT + 1)
        self._messages = messages
        self._token = ""

    def acquire(self, token: str) -> ControlSlot:
        """Return the slot for the one attempt."""
        self._token = token
        self.current_slot = _ForwardingControlSlot(self, token, self._messages)
        return self.current_slot

    def read_commands(self, commands: BinaryIO) -> None:
        """Apply the commands of the worker until the pipe is closed."""
        for line in commands:
            word, _, number = line.decode().strip().partition(" ")
            if word == "cancelled":
                self.mark_cancelled(self._token, _SLOT)
            elif word == "limit":
                self.mark_timed_out(self._token, _SLOT, float(number))
                # The handler runs in the main thread, which is the job's.
                os.kill(os.getpid(), signal.SIGUSR1)


class _ForwardingLogHandler(logging.Handler):
    """A handler that forwards records logged while no job runs, because they belong into the worker's log."""

    def __init__(self, messages: MessageWriter, table: ControlTable) -> None:
        super().__init__()
        self._messages = messages
        self._table = table

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record; never raise."""
        if self._table.current_slot is None:
            try:
                self._messages.send("record", [self.format(record), record.levelno, record.name])
            except Exception:  # noqa: BLE001  logging's own rule
                self.handleError(record)


def main() -> None:
    """Run the attempt that standard input describes."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    commands = _detach_stdin()
    messages = MessageWriter(subreaper.MESSAGE_DESCRIPTOR)
    os.set_inheritable(subreaper.MESSAGE_DESCRIPTOR, False)
    run_request = RunRequest.from_line(commands.readline())
    table = ForwardingControlTable(messages)
    _prepare_process(run_request, messages, table)
    signal.signal(signal.SIGUSR1, table.on_soft_limit)
    threading.Thread(target=table.read_commands, args=(commands,), name="words", daemon=True).start()
    messages.send("begun", True)
    answer = tracer.run_plain(
        run_request.task, run_request.id, dict(run_request.request), run_request.payload, None, None
    )
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    messages.send(
        "ended", {"answer": _format_answer(answer[1]), "report": answer[3] or _make_missing_report(answer[1])}
    )


def _detach_stdin() -> BinaryIO:
    """Return the pipe from the worker, and give the job an empty standard input instead."""
    commands = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands


def _prepare_process(run_request: RunRequest, messages: MessageWriter, table: ControlTable) -> None:
    settings, clock = Settings.from_environment(), SystemClock()
    own_logging.configure(settings.log_format, run_request.level, "job")
    logging.getLogger().handlers[:] = [_ForwardingLogHandler(messages, table)]
    app = find_app(_APP_MODULE)
    app.loader.import_default_modules()
    app.finalize()
    app.set_current()
    in_flight = InFlight(
        ReportOutbox(run_request.worker, clock, lambda: connect_redis(settings.redis_url), sys.exit),
        run_request.code_version,
        clock,
    )
    runner = AttemptRunner(settings, clock, run_request.worker, in_flight, run_request.code_version)
    runner.configure_single_job(table, ForwardingLogSender(messages))
    JobTask.runner = runner


def _format_answer(answer: Any) -> str:
    exception = getattr(answer, "exception", None)
    return str(answer) if exception is None else f"{type(exception).__name__}: {exception}"


def _make_missing_report(answer: Any) -> tuple[str, str]:
    """Return the report of an attempt that never reached the job."""
    ended = outcome.from_missing_report(getattr(answer, "exception", None))
    return ended.kind.value, json.dumps(ended.data)


if __name__ == "__main__":
    main()
