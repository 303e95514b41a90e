"""Jobs that resist their end and start child processes, whose pids they append to the activity log."""

import os
import signal
import subprocess
import time
from pathlib import Path

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from jobworker import Context, JobCancelled, current, job
from tests.jobs import log_activity

#: A child that ignores all signals it can and starts another process. Both end by themselves if a test fails.
_STUBBORN_SCRIPT = "trap '' TERM INT HUP; sleep 120 & for i in $(seq 120); do sleep 1; done"


def log_children(*pids: int) -> None:
    """Append the started processes to the activity log."""
    for pid in pids:
        log_activity(f"child:{pid}")


def _start_children() -> None:
    """Start a child in the job's process group, one with a session of its own, and an orphan."""
    plain = subprocess.Popen(["sh", "-c", _STUBBORN_SCRIPT])
    apart = subprocess.Popen(["sh", "-c", _STUBBORN_SCRIPT], start_new_session=True)
    orphan = subprocess.run(
        ["sh", "-c", f"({_STUBBORN_SCRIPT}) >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
    )
    log_children(plain.pid, apart.pid, int(orphan.stdout))


@job
def ignore_termination(ignore_signals: bool = True) -> None:
    """Start children, and run until killed."""
    if ignore_signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _start_children()
    log_activity("start")
    while True:
        time.sleep(0.1)


@shared_task(name="plain_slow", soft_time_limit=0.5)
def plain_slow(path: str) -> None:
    """Write a file when the soft limit raises, as a plain Celery task."""
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        Path(path).write_text("softly")


@job
def suppress_soft_limit(seconds: float) -> str:
    """Suppress every `Exception`."""
    log_activity("start")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except Exception:  # noqa: BLE001 - the purpose of the job
            pass
    log_activity("end")
    return "done all the same"


@job
def suppress_all_exceptions(seconds: float) -> str:
    """Suppress every `BaseException`."""
    log_activity("start")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except BaseException:  # noqa: BLE001
            pass
    log_activity("end")
    return "done all the same"


@job
def extend_limit(context: Context, seconds: float, by: float, times: int = 1) -> str:
    """Extend the limit, and run longer than the original one."""
    log_activity("start")
    for _ in range(times):
        context.extend(by)
        time.sleep(seconds / times)
    log_activity("end")
    return "in time"


@job
def extend_with_invalid_time(context: Context) -> list[str]:
    """Extend the limit by invalid values."""
    messages = []
    for wrong in (0, -1, float("nan"), float("inf"), True, "5"):
        try:
            context.extend(wrong)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages


@job
def raise_if_job_cancelled(context: Context, in_its_own_words: bool = False) -> None:
    """Check for cancellation often, and end when cancelled."""
    log_activity("start")
    while True:
        if in_its_own_words and context.cancelled:
            raise JobCancelled("put everything back")
        context.raise_if_cancelled()
        time.sleep(0.02)


@job
def finish_when_cancelled() -> str:
    """Check for cancellation, and succeed when cancelled."""
    log_activity("start")
    while not current().cancelled:
        time.sleep(0.02)
    log_activity("end")
    return "what there was"


@job
def raise_cancelled_without_request() -> None:
    """Raise JobCancelled without a cancellation request."""
    log_activity("start")
    raise JobCancelled


@job
def poll_cancellation(path: str) -> bool:
    """Run until a file appears, and return whether the attempt was cancelled."""
    log_activity("start")
    while not Path(path).exists():
        time.sleep(0.02)
    return current().cancelled


@job
def return_process_ids() -> dict[str, int]:
    """Return the ids of the process, its group and its session."""
    return {"pid": os.getpid(), "group": os.getpgid(0), "session": os.getsid(0)}


@job
def exceed_limit_until(context: Context, good_attempt: int, softly: bool = False) -> int:
    """Exceed the time limit until a given attempt."""
    log_activity("start")
    if context.attempt < good_attempt:
        time.sleep(60)
    return context.attempt


@job
def hold_until_cancelled(context: Context, seconds: float) -> str:
    """Keep a slot busy, and check for cancellation."""
    log_activity("start")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        context.raise_if_cancelled()
        time.sleep(0.01)
    log_activity("end")
    return "held"
