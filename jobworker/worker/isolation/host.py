"""What a pool runs for an attempt that has a process of its own: starts the process, listens to it, and ends it."""

import datetime as dt
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from celery import current_app
from celery.exceptions import Retry

from jobworker import declare
from jobworker.clock import SystemClock
from jobworker.declare import Context
from jobworker.domain import json_values
from jobworker.domain.events import Kind
from jobworker.domain.isolation import Process
from jobworker.domain.job_log import Dropped
from jobworker.worker import outcome, trace
from jobworker.worker.delivery import TOKEN_HEADER
from jobworker.worker.isolation import attended, program
from jobworker.worker.isolation.attended import JobLog
from jobworker.worker.isolation.deadlines import STARTUP, Cut, Deadlines
from jobworker.worker.isolation.program import End, Limits, Program
from jobworker.worker.isolation.wire import Order
from jobworker.worker.job_logging import OF_WORKER
from jobworker.worker.outcome import Outcome, Told
from jobworker.worker.task import JobTask
from jobworker.worker.trace import Report

_CHILD = "jobworker.worker.isolation.child"

#: Longest text about a result that Celery's own events and logs show (characters).
_MOST_SHOWN = 1000

#: What is ours to say about an attempt, and not the process's.
_OURS = frozenset({"worker", "token", "runtime"})


class ProcessCrashed(Exception):
    """The job's process ended and did not say how the job did: it was killed, or left by `os._exit()`."""


class JobFailed(Exception):
    """What Celery is told of a job that failed in a process of its own; history knows the error itself."""


def isolated(*arguments: Any) -> tuple[bool, Any, float, Report | None]:
    """(failed, answer, runtime, report) of one attempt, as `trace.plain`."""
    return trace.with_report(_attempt, arguments)


def apart(*arguments: Any) -> tuple[bool, Any, float, Report | None]:
    """The same of an attempt that may kill its worker: when its process goes instead, it is lost all the same."""
    return trace.with_report(_suspected, arguments)


def _suspected(name: str, id: str, request: dict[str, Any], *rest: Any) -> tuple[bool, Any, float]:
    try:
        return _attempt(name, id, request, *rest)
    except ProcessCrashed as crash:
        lost = {"worker": JobTask.get_job_runner().worker, "token": request[TOKEN_HEADER]}
        lost.update(outcome.process_gone(str(crash)).data)
        trace.leave((Kind.LOST.value, json.dumps(lost)))
        raise


def _attempt(name: str, id: str, request: dict[str, Any], payload: Any, *_: Any) -> tuple[bool, Any, float]:
    task, runner, clock = current_app.tasks[name], JobTask.get_job_runner(), SystemClock()
    started = clock.monotonic()
    # Neither Celery's tracer nor any hook of the task runs here: that is users' code, and all of it runs over there.
    task.push_request(request, args=payload[0], kwargs=payload[1], called_directly=False)
    try:
        order = Order(name, id, request, payload, runner.worker, runner.code_version, logging.getLogger().level)
        delivery = task.delivery()
        policy = task.job_isolation()
        policy = policy if isinstance(policy, Process) else Process()
        attempt = task.job_attempt(delivery, lambda: _elsewhere(order, policy, task))
        runner.run_attempt(delivery, attempt, payload[1])
    except Told as told:
        return _answer(told.outcome, clock.monotonic() - started)
    finally:
        task.pop_request()
    raise AssertionError("a job in a process of its own has no value here")


def _answer(ended: Outcome, runtime: float) -> tuple[bool, Any, float]:
    """What Celery is told. Raises what stands for anything but success."""
    if ended.kind is Kind.SUCCEEDED:
        return False, json.dumps(ended.data.get("result"))[:_MOST_SHOWN], runtime
    if ended.kind is Kind.RETRYING:
        raise Retry(ended.data.get("reason"), when=ended.data.get("delay"))
    error = ended.data.get("error") or {}
    raise JobFailed(f"{error.get('type')}: {error.get('message')}"[:_MOST_SHOWN])


def _elsewhere(order: Order, policy: Process, task: JobTask) -> None:
    """Run the attempt in its process. Raises `Told`, `ProcessCrashed`."""
    what = Program(
        [sys.executable, "-u", "-m", _CHILD],
        stdin=order.to_line(),
        folder=JobTask.get_job_runner().start_folder,
        limits=Limits(policy.memory, policy.cpu, policy.open_files),
        has_message_pipe=True,
    )
    times = attended.deadlines(task)
    ear = _Ear(declare.current(), times)
    end = program.run(what, times, ear)
    if ear.reported_outcome is not None:
        raise Told(_with_reason(ear.reported_outcome, policy))
    attended.refuse(end, times, task)
    raise ProcessCrashed(_why(end, policy, ear.has_begun))


def _with_reason(ended: Outcome, policy: Process) -> Outcome:
    error = ended.data.get("error") or {}
    if policy.memory is None or error.get("type") != "MemoryError":
        return ended
    return Outcome(ended.kind, {"reason": f"its memory limit of {policy.memory} bytes is used up", **ended.data})


def _why(end: End, policy: Process, has_begun: bool) -> str:
    if end.stop_reason is Cut.NOT_STARTED:
        return f"the job's process did not begin with the job within {STARTUP:g} s"
    if end.signal is not None and program.signal_name(end.signal) == "SIGXCPU":
        return f"the job's process used up its {policy.cpu} s of CPU time"
    when = "" if has_begun else ", before the job began; its log may say why"
    return f"the job's process is gone: {end}{when}"


class _Ear(JobLog):
    """Hears what the process says. Users' code runs there, so it may say anything."""

    def __init__(self, context: Context, times: Deadlines) -> None:
        super().__init__()
        self._context = context
        self._times = times
        self.has_begun = False
        self.reported_outcome: Outcome | None = None

    def on_message(self, message: dict[str, Any]) -> None:
        """A message; what makes no sense is passed over."""
        for field, value in message.items():
            hear = getattr(self, f"_hear_{field}", None)
            if hear is not None:
                try:
                    hear(value)
                except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
                    self.log_line(f"its process said what makes no sense: {error}", logging.WARNING, "jobworker")

    def _handle_begun(self, _: Any) -> None:
        if not self.has_begun:
            self.has_begun = True
            self._times.start()

    def _handle_line(self, said: Any) -> None:
        message, level, logger, at = map(str, said)
        created = dt.datetime.fromisoformat(at).timestamp()
        record = {"name": logger, "msg": message, "levelname": level, "created": created}
        JobTask.get_job_runner().log_record(logging.makeLogRecord(record))

    def _handle_dropped(self, said: Any) -> None:
        lines, size = map(int, said)
        JobTask.get_job_runner().record_dropped(Dropped(lines, size))

    def _handle_record(self, said: Any) -> None:
        message, level, logger = said
        logging.getLogger(str(logger)).log(int(level), "%s", message, extra={OF_WORKER: True})

    def _handle_progress(self, said: Mapping[str, Any]) -> None:
        self._context.progress(said["done"], said["total"], said["message"])

    def _handle_metadata(self, said: Mapping[str, Any]) -> None:
        for name, value in said.items():
            if value is not None:
                self._context.metadata[name] = value
            else:
                self._context.metadata.pop(name, None)

    def _handle_extended(self, seconds: float) -> None:
        self._context.extend(seconds)
        self._times.extend(seconds)

    def _handle_ended(self, said: Mapping[str, Any]) -> None:
        kind, data = said["report"]
        told = json_values.read(data)
        words = {name: told.pop(name) for name in ("progress", "metadata") if name in told}
        self.on_message(words)
        # What it says after it was told to end counts no more.
        if self._times.stop_reason is None and self.reported_outcome is None:
            ours = {name: value for name, value in told.items() if name not in _OURS}
            self.reported_outcome = outcome.checked(Outcome(Kind(kind), ours))
            self._times.mark_ended()
