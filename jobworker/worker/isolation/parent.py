"""The parent of an isolated attempt: starts the child process, reads its messages, and ends it."""

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
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.log_limits import DroppedLines
from jobworker.domain.jobs.isolation import ProcessIsolation
from jobworker.domain.json import json_values
from jobworker.worker.attempt import outcome
from jobworker.worker.attempt.delivery import TOKEN_HEADER
from jobworker.worker.attempt.log_capture import WORKER_RECORD_ATTRIBUTE
from jobworker.worker.attempt.outcome import AttemptOutcome, ReportedOutcome
from jobworker.worker.celery import tracer
from jobworker.worker.celery.task import JobTask
from jobworker.worker.celery.tracer import Report
from jobworker.worker.isolation import program, program_job
from jobworker.worker.isolation.deadlines import STARTUP_TIMEOUT_SECONDS, ProgramDeadlines, StopReason
from jobworker.worker.isolation.program import Program, ProgramEnd, ResourceLimits
from jobworker.worker.isolation.program_job import ProgramLog
from jobworker.worker.isolation.protocol import RunRequest

_CHILD_MODULE = "jobworker.worker.isolation.child"

#: Maximum length of a result in Celery's own events and logs (characters).
_MAX_SHOWN_LENGTH = 1000

#: Fields of a report that the parent sets, and ignores in the child's report.
_PARENT_FIELDS = frozenset({"worker", "token", "runtime"})


class ProcessCrashed(Exception):
    """The job's process ended without a report on the job: it was killed, or ended by `os._exit()`."""


class JobFailed(Exception):
    """The exception that Celery gets for a job that failed in its own process; the history contains the job's error."""


def run_isolated(*arguments: Any) -> tuple[bool, Any, float, Report | None]:
    """Return (failed, answer, runtime, report) of one attempt, as `tracer.run_plain` does."""
    return tracer.run_with_report(_run_attempt, arguments)


def run_apart(*arguments: Any) -> tuple[bool, Any, float, Report | None]:
    """Run an attempt that may kill its worker; return what `run_isolated` returns.

    If the attempt's own process dies instead of the worker, the attempt is reported as lost.
    """
    return tracer.run_with_report(_run_suspected_attempt, arguments)


def _run_suspected_attempt(name: str, id: str, request: dict[str, Any], *message_parts: Any) -> tuple[bool, Any, float]:
    try:
        return _run_attempt(name, id, request, *message_parts)
    except ProcessCrashed as crash:
        lost = {"worker": JobTask.get_job_runner().worker, "token": request[TOKEN_HEADER]}
        lost.update(outcome.for_lost_process(str(crash)).data)
        tracer.store_report((EventKind.LOST.value, json.dumps(lost)))
        raise


def _run_attempt(name: str, id: str, request: dict[str, Any], payload: Any, *_: Any) -> tuple[bool, Any, float]:
    task, runner, clock = current_app.tasks[name], JobTask.get_job_runner(), SystemClock()
    started = clock.monotonic()
    # Neither Celery's tracer nor any hook of the task runs here: that is users' code, which runs in the child process.
    task.push_request(request, args=payload[0], kwargs=payload[1], called_directly=False)
    try:
        run_request = RunRequest(
            name, id, request, payload, runner.worker, runner.code_version, logging.getLogger().level
        )
        delivery = task.get_job_delivery()
        policy = task.get_job_isolation()
        policy = policy if isinstance(policy, ProcessIsolation) else ProcessIsolation()
        attempt = task.wrap_job_attempt(delivery, lambda: _run_in_own_process(run_request, policy, task))
        runner.run_attempt(delivery, attempt, payload[1])
    except ReportedOutcome as reported:
        return _to_celery_result(reported.outcome, clock.monotonic() - started)
    finally:
        task.pop_request()
    raise AssertionError("an isolated attempt ends with a reported outcome or an exception")


def _to_celery_result(attempt_outcome: AttemptOutcome, runtime: float) -> tuple[bool, Any, float]:
    """Return the result that Celery gets. Raises an exception for any outcome but success."""
    if attempt_outcome.kind is EventKind.SUCCEEDED:
        return False, json.dumps(attempt_outcome.data.get("result"))[:_MAX_SHOWN_LENGTH], runtime
    if attempt_outcome.kind is EventKind.RETRYING:
        raise Retry(attempt_outcome.data.get("reason"), when=attempt_outcome.data.get("delay"))
    error = attempt_outcome.data.get("error") or {}
    raise JobFailed(f"{error.get('type')}: {error.get('message')}"[:_MAX_SHOWN_LENGTH])


def _run_in_own_process(run_request: RunRequest, policy: ProcessIsolation, task: JobTask) -> None:
    """Run the attempt in its own process. Raises `ReportedOutcome` or `ProcessCrashed`."""
    spec = Program(
        [sys.executable, "-u", "-m", _CHILD_MODULE],
        stdin=run_request.to_line(),
        folder=JobTask.get_job_runner().start_folder,
        limits=ResourceLimits(policy.memory, policy.cpu, policy.open_files),
        has_message_pipe=True,
    )
    times = program_job.make_deadlines(task)
    listener = _ChildListener(declare.current(), times)
    end = program.run(spec, times, listener)
    if listener.reported_outcome is not None:
        raise ReportedOutcome(_add_memory_reason(listener.reported_outcome, policy))
    program_job.raise_for_end(end, times, task)
    raise ProcessCrashed(_describe_crash(end, policy, listener.has_begun))


def _add_memory_reason(ended: AttemptOutcome, policy: ProcessIsolation) -> AttemptOutcome:
    error = ended.data.get("error") or {}
    if policy.memory is None or error.get("type") != "MemoryError":
        return ended
    return AttemptOutcome(ended.kind, {"reason": f"its memory limit of {policy.memory} bytes is used up", **ended.data})


def _describe_crash(end: ProgramEnd, policy: ProcessIsolation, has_begun: bool) -> str:
    if end.stop_reason is StopReason.NOT_STARTED:
        return f"the job's process did not begin with the job within {STARTUP_TIMEOUT_SECONDS:g} s"
    if end.signal is not None and program.get_signal_name(end.signal) == "SIGXCPU":
        return f"the job's process used up its {policy.cpu} s of CPU time"
    when = "" if has_begun else ", before the job began; its log may contain the reason"
    return f"the job's process is gone: {end}{when}"


class _ChildListener(ProgramLog):
    """The receiver of a child process's messages. Users' code runs there, so a message may contain anything."""

    def __init__(self, context: Context, times: ProgramDeadlines) -> None:
        super().__init__()
        self._context = context
        self._times = times
        self.has_begun = False
        self.reported_outcome: AttemptOutcome | None = None

    def on_message(self, message: dict[str, Any]) -> None:
        """Handle a message; invalid fields are logged and ignored."""
        for field, value in message.items():
            handle = getattr(self, f"_handle_{field}", None)
            if handle is not None:
                try:
                    handle(value)
                except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
                    self.log_line(f"its process sent an invalid message: {error}", logging.WARNING, "jobworker")

    def _handle_begun(self, _: Any) -> None:
        if not self.has_begun:
            self.has_begun = True
            self._times.start()

    def _handle_line(self, payload: Any) -> None:
        message, level, logger, at = map(str, payload)
        created = dt.datetime.fromisoformat(at).timestamp()
        record = {"name": logger, "msg": message, "levelname": level, "created": created}
        JobTask.get_job_runner().log_record(logging.makeLogRecord(record))

    def _handle_dropped(self, payload: Any) -> None:
        lines, size = map(int, payload)
        JobTask.get_job_runner().record_dropped(DroppedLines(lines, size))

    def _handle_record(self, payload: Any) -> None:
        message, level, logger = payload
        logging.getLogger(str(logger)).log(int(level), "%s", message, extra={WORKER_RECORD_ATTRIBUTE: True})

    def _handle_progress(self, payload: Mapping[str, Any]) -> None:
        self._context.progress(payload["done"], payload["total"], payload["message"])

    def _handle_metadata(self, payload: Mapping[str, Any]) -> None:
        for name, value in payload.items():
            if value is not None:
                self._context.metadata[name] = value
            else:
                self._context.metadata.pop(name, None)

    def _handle_extended(self, seconds: float) -> None:
        self._context.extend(seconds)
        self._times.extend(seconds)

    def _handle_ended(self, payload: Mapping[str, Any]) -> None:
        kind, data = payload["report"]
        report = json_values.parse_sanitized(data)
        updates = {name: report.pop(name) for name in ("progress", "metadata") if name in report}
        self.on_message(updates)
        # A report that arrives after the process was terminated is ignored.
        if self._times.stop_reason is None and self.reported_outcome is None:
            fields = {name: value for name, value in report.items() if name not in _PARENT_FIELDS}
            self.reported_outcome = outcome.verify_result(AttemptOutcome(EventKind(kind), fields))
            self._times.mark_ended()
