"""Jobs that run in processes of their own, and their behavior there."""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from celery.exceptions import SoftTimeLimitExceeded

from jobworker import Context, Job, Retry, current, job
from tests.jobs import log_activity

MIB = 1024**2
PROCESS = {"mode": "process"}


@job(isolation=PROCESS)
def describe_process(context: Context, secret: str = "") -> dict[str, Any]:
    """Log, print and report in every way, and return facts about the process."""
    log_activity("start")
    context.log.info("by its logger")
    logging.getLogger("elsewhere").warning("by another")
    print("printed")
    print("complained", file=sys.stderr)
    os.write(1, b"past Python\n")
    context.progress(3, 10, "on the way")
    context.metadata["colour"] = "red"
    log_activity("end")
    return {
        "pid": os.getpid(),
        "execution": context.execution_id,
        "attempt": context.attempt,
        "worker": context.worker,
        "parameters": dict(context.parameters),
        "correlation_id": context.correlation_id,
        "command": Path("/proc/self/cmdline").read_text().split("\0"),
        "environment": Path("/proc/self/environ").read_text().split("\0"),
        "stdin": sys.stdin.read(),
    }


@job(isolation=PROCESS, max_retries=0)
def end_badly(how: str) -> str:
    """End in the given way."""
    log_activity("start")
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "leave":
        os._exit(7)
    elif how == "exit":
        sys.exit(3)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "raise":
        raise ValueError("as told")
    elif how == "not json":
        return object()  # type: ignore[return-value]
    elif how == "lie":
        os.write(3, b'{"ended": {"report": ["nonsense", "{}"]}}\n{"line": 3}\nrubbish\n')
    elif how == "forge":
        report = json.dumps(["succeeded", '{"result": ' + "[" * 300 + "]" * 300 + "}"])
        os.write(3, b'{"ended": {"report": %b}}\n' % report.encode())
    elif how == "nest":
        os.write(3, b'{"ended": {"report": ["succeeded", ' + b"[" * 5000 + b"]" * 5000 + b"]}}\n")
    return "well"


@job(isolation={"mode": "process", "memory": 200 * MIB}, max_retries=0)
def allocate_memory(mib: int) -> int:
    """Allocate this much memory (MiB)."""
    return len(bytearray(mib * MIB)) // MIB


@job(isolation={"mode": "process", "cpu": 3}, max_retries=0)
def use_cpu() -> None:
    """Use the CPU without end."""
    while True:
        pass


@job(isolation=PROCESS, autoretry_for=(ValueError,), max_retries=2, retry_backoff=0.1, retry_jitter=False)
def succeed_at_attempt(context: Context, good_attempt: int = 2) -> int:
    """Fail until a given attempt."""
    log_activity("start")
    if context.attempt < good_attempt:
        raise ValueError(f"not yet: {context.attempt}")
    return context.attempt


@job(isolation=PROCESS, max_retries=2)
def request_retry(context: Context) -> int:
    """Raise Retry with a delay in the first attempt."""
    if context.attempt == 1:
        raise Retry(0.1, "not today")
    return context.attempt


@job(isolation=PROCESS, retry={"strategy": "fixed", "delay": 0.1, "max_attempts": 2})
def crash_once(context: Context) -> int:
    """Abort the process in the first attempt."""
    if context.attempt == 1:
        os.abort()
    return context.attempt


@job(isolation=PROCESS, time_limit=2, max_retries=0)
def ignore_sigterm() -> None:
    """Ignore SIGTERM, fork into the group and out of it, and never end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for leave in (False, True):
        if os.fork() == 0:
            if leave:
                os.setsid()
            log_activity("start")
            time.sleep(600)
    log_activity("start")
    while True:
        time.sleep(600)


@job(isolation=PROCESS, soft_time_limit=1, time_limit=60, max_retries=0)
def wait_for_soft_limit(minds: bool) -> str:
    """Sleep through the soft limit."""
    try:
        time.sleep(50)
    except SoftTimeLimitExceeded:
        if not minds:
            raise
    return "cleaned up"


@job(isolation=PROCESS, time_limit=3, max_retries=0)
def extend_time_limit(context: Context) -> str:
    """Extend the limit, and run longer than the original one."""
    context.extend(60)
    time.sleep(5)
    return "in the end"


@job(isolation=PROCESS, max_retries=0)
def wait_for_cancellation(context: Context, minds: bool) -> str:
    """Run until cancelled; only with `minds` end without being killed."""
    if not minds:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log_activity("start")
    while True:
        time.sleep(0.05)
        if minds:
            context.raise_if_cancelled()


@job(isolation=PROCESS, max_retries=0)
def print_gigabyte(how: str) -> str:
    """Print 1 GB, in one line or in many, or log a third of it."""
    log_activity("start")
    if how == "log":
        for number in range(22_000):
            current().log.info("%d %s", number, "x" * 15_000)
    else:
        command = {"line": "head -c 1000000000 /dev/zero", "lines": "yes | head -c 1000000000"}[how]
        subprocess.run(["sh", "-c", command], check=True)
    log_activity("end")
    return "said"


class LogHookProcesses(Job):
    """A job that logs the process of each hook."""

    isolation: ClassVar = PROCESS
    max_retries = 0

    def before_start(self) -> None:
        log_activity("before")

    def run(self, fails: bool = False) -> str:
        log_activity("start")
        if fails:
            raise ValueError("as told")
        return "done"

    def on_success(self, result: str) -> None:
        log_activity(result)

    def on_failure(self, error: BaseException) -> None:
        log_activity(type(error).__name__)

    def after_return(self, state: str) -> None:
        log_activity(state)


@job(isolation=PROCESS)
def call_isolated_job() -> str:
    """Call an isolated job from an isolated job."""
    called: str = describe_process.delay(secret="called").id
    return called


@job
def change_working_folder() -> str:
    """Leave the folder in which the worker was started, for good."""
    os.chdir("/")
    return str(Path.cwd())


@job(isolation=PROCESS)
def leave_thread() -> str:
    """Return while a thread still runs."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "returned"
