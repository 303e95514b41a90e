"""Jobs that misbehave on request. Their activity is appended to the file that JOB_DIARY names."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from jobworker import Context, current, job


def log_activity(event: str) -> None:
    """Append one line in one write to the activity log, which tests compare the history with."""
    context = current()
    line = f"{context.execution_id} {context.attempt} {event} {os.getpid()}\n"
    descriptor = os.open(os.environ["JOB_DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@job
def noop(context: Context, number: int = 0) -> int:
    """Do nothing except log the activity."""
    log_activity("start")
    log_activity("end")
    return number


@job
def echo(value: str) -> str:
    """Return the given value."""
    log_activity("echo")
    return value


@job
def hold(seconds: float) -> str:
    """Keep a slot busy."""
    log_activity("start")
    time.sleep(seconds)
    log_activity("end")
    return "held"


@job
def wait_for_file(path: str) -> str:
    """Run until a file appears."""
    log_activity("start")
    while not Path(path).exists():
        time.sleep(0.02)
    log_activity("end")
    return "seen"


@job(autoretry_for=(ValueError,), retry_backoff=0.2, retry_jitter=False, max_retries=2)
def flaky(context: Context, good_attempt: int) -> int:
    """Fail until a given attempt, with Celery's autoretry."""
    log_activity("start")
    context.log.info("attempt %d", context.attempt)
    context.progress(context.attempt, 3, "trying")
    if context.attempt < good_attempt:
        raise ValueError(f"not yet: {context.attempt}")
    return context.attempt


@job(bind=True, max_retries=1)
def request_manual_retry(self, countdown: float) -> None:  # type: ignore[no-untyped-def]
    """Ask for a retry by hand, for ever."""
    log_activity("start")
    raise self.retry(countdown=countdown, exc=RuntimeError("never good"))


@job(autoretry_for=(ValueError,), retry_kwargs={"max_retries": 1, "countdown": 0})
def retry_with_limit_in_call() -> None:
    """Fail, with a retry limit in Celery's retry_kwargs."""
    log_activity("start")
    raise ValueError("again")


@job(max_retries=0)
def fail(message: str = "broken") -> None:
    """Fail without retries."""
    log_activity("start")
    raise RuntimeError(message)


@job(time_limit=1)
def exceed_hard_limit() -> None:
    """Ignore the hard limit."""
    log_activity("start")
    while True:
        time.sleep(1)


@job(soft_time_limit=1, time_limit=20)
def exceed_soft_limit() -> None:
    """Run until the soft limit ends the attempt."""
    log_activity("start")
    time.sleep(15)


@job(soft_time_limit=1, time_limit=20)
def return_on_soft_limit() -> str:
    """Clean up when the soft limit raises."""
    try:
        time.sleep(15)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "never"


@job
def kill_own_process() -> None:
    """Kill the own process in every attempt."""
    log_activity("start")
    os.kill(os.getpid(), signal.SIGKILL)


@job(on_worker_lost="fail")
def kill_own_process_once() -> None:
    """Kill the own process; the policy forbids another attempt."""
    log_activity("start")
    os.kill(os.getpid(), signal.SIGKILL)


@job
def exit_with_code() -> None:
    """Raise SystemExit."""
    log_activity("start")
    sys.exit(3)


@job
def return_unserializable() -> object:
    """Return a value that JSON cannot represent."""
    return {"when": object()}


@job
def return_large_result() -> str:
    """Return a result that is too large to store in the database."""
    return "x" * 100_000


@job
def print_lines(lines: int) -> None:
    """Log lines by a logger, print one, and start a program."""
    for number in range(lines):
        logging.getLogger("elsewhere").warning("line %d", number)
    print("printed")
    subprocess.run(["true"], check=True)


@job
def save_file(context: Context) -> str:
    """Save a file."""
    return context.files.save("out.txt", "hello").path


@shared_task(name="plain_celery_task")
def plain(left: int, right: int = 1) -> int:
    """Add two numbers, as a plain Celery task."""
    return left + right


@job(retry={"strategy": "fixed", "delay": 0, "max_attempts": 3})
def return_json(kind: str) -> object:
    """Return JSON that some databases cannot store."""
    log_activity("start")
    deep: list[object] = []
    for _ in range(300 if kind == "deep" else 99):
        deep = [deep]
    tagged = {"id": {"__type__": "uuid", "__value__": "zz"}}
    numbered = {200: 3, 404: 1}
    return {
        "nul": "a\x00b", "half": "\ud800", "large": 2**70, "deep": deep, "tagged": tagged,
        "just deep": deep, "numbered": numbered,
    }[kind]  # fmt: skip


@job(max_retries=0)
def log_control_characters(context: Context) -> None:
    """Log, report and raise texts that cannot be stored unchanged."""
    context.log.info("nul \x00 half \ud800")
    context.progress(2**70, None, "nul \x00 half \ud800")
    raise RuntimeError("nul \x00 half \ud800")
