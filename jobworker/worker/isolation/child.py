"""The process that one attempt has for itself: `python -m jobworker.worker.isolation.child`, started by `host`.

It is a worker for one job: Celery's own tracer runs it, with everything that a job finds in a process of the pool. What
differs is whom it speaks with: not Redis, but the process that started it.
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
from jobworker.transport.client import connect
from jobworker.transport.mailbox import Mailbox
from jobworker.worker import outcome, trace
from jobworker.worker.desk import Desk, Seat
from jobworker.worker.isolation import keeper
from jobworker.worker.isolation.wire import Order, Wire
from jobworker.worker.reporter import Fields, Reporter, Teller
from jobworker.worker.runner import Runner
from jobworker.worker.task import JobTask

#: What `celery -A` is told when a worker is started.
_APP = "jobworker"

_SEAT = 0


class WireReporter(Reporter):
    """Passes on what the job says; whoever hears it bounds it."""

    def __init__(self, wire: Wire) -> None:
        self._messages = wire

    def add_entry(self, entry: Fields, size: int, always: bool = False) -> bool:
        """A line, or how many there were that no log can hold."""
        data = json.loads(entry["data"])
        if "message" in data:
            self._messages.send("line", [data["message"], data["level"], data["logger"], data["at"]])
        else:
            self._messages.send("dropped", data["dropped"])
        return True

    def add_source(self, teller: Teller) -> None:
        """Progress, or metadata."""
        for entry in teller.take_updates():
            self._messages.send(entry["kind"], json.loads(entry["data"]))

    def is_own_thread(self) -> bool:
        """It has none."""
        return False

    def flush(self) -> None:
        """Everything has left."""

    def remove_source(self, teller: Teller) -> None:
        """Nothing is under way."""

    def reset_after_fork(self) -> None:
        """Nothing waits here."""
        self._messages.reset_after_fork()


class _WiredSeat(Seat):
    """A seat whose occupant's wishes are passed on."""

    __slots__ = ("_messages",)

    def __init__(self, desk: Desk, token: str, wire: Wire) -> None:
        super().__init__(desk, _SEAT, token)
        self._messages = wire

    def extend(self, seconds: float) -> None:
        super().extend(seconds)
        self._messages.send("extended", seconds)


class WiredDesk(Desk):
    """The desk of a process with one seat."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(seats=_SEAT + 1)
        self._messages = wire
        self._token = ""

    def acquire(self, token: str) -> Seat:
        """The seat for the one attempt."""
        self._token = token
        self.current_slot = _WiredSeat(self, token, self._messages)
        return self.current_slot

    def read_commands(self, words: BinaryIO) -> None:
        """Pass on what the worker says, until it is gone."""
        for line in words:
            word, _, number = line.decode().strip().partition(" ")
            if word == "cancelled":
                self.mark_cancelled(self._token, _SEAT)
            elif word == "limit":
                self.mark_timed_out(self._token, _SEAT, float(number))
                # The handler runs in the main thread, which is the job's.
                os.kill(os.getpid(), signal.SIGUSR1)


class _WorkersLog(logging.Handler):
    """Passes on what is logged while no job runs: it belongs into the log of the worker."""

    def __init__(self, wire: Wire, desk: Desk) -> None:
        super().__init__()
        self._messages = wire
        self._table = desk

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises."""
        if self._table.current_slot is None:
            try:
                self._messages.send("record", [self.format(record), record.levelno, record.name])
            except Exception:  # noqa: BLE001  logging's own rule
                self.handleError(record)


def main() -> None:
    """Run the attempt that standard input tells of."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    words = _take_over_stdin()
    wire = Wire(keeper.WIRE)
    os.set_inheritable(keeper.WIRE, False)
    order = Order.from_line(words.readline())
    desk = WiredDesk(wire)
    _prepare(order, wire, desk)
    signal.signal(signal.SIGUSR1, desk.on_soft_limit)
    threading.Thread(target=desk.read_commands, args=(words,), name="words", daemon=True).start()
    wire.send("begun", True)
    answer = trace.plain(order.task, order.id, dict(order.request), order.payload, None, None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    wire.send("ended", {"answer": _shown(answer[1]), "report": answer[3] or _without_report(answer[1])})


def _take_over_stdin() -> BinaryIO:
    """What comes from the worker is not for the job to read."""
    words = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return words


def _prepare(order: Order, wire: Wire, desk: Desk) -> None:
    settings, clock = Settings.from_environment(), SystemClock()
    own_logging.configure(settings.log_format, order.level, "job")
    logging.getLogger().handlers[:] = [_WorkersLog(wire, desk)]
    app = find_app(_APP)
    app.loader.import_default_modules()
    app.finalize()
    app.set_current()
    mailbox = Mailbox(order.worker, order.code_version, clock, lambda: connect(settings.redis_url), sys.exit)
    runner = Runner(settings, clock, order.worker, mailbox, order.code_version)
    runner.configure_single_job(desk, WireReporter(wire))
    JobTask.runner = runner


def _shown(answer: Any) -> str:
    exception = getattr(answer, "exception", None)
    return str(answer) if exception is None else f"{type(exception).__name__}: {exception}"


def _without_report(answer: Any) -> tuple[str, str]:
    """The attempt never got as far as the job."""
    ended = outcome.of_end_without_report(getattr(answer, "exception", None))
    return ended.kind.value, json.dumps(ended.data)


if __name__ == "__main__":
    main()
