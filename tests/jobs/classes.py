"""Jobs that are classes."""

import datetime as dt
import os
import time
from typing import Any, ClassVar, Literal

from jobworker import Abort, Context, Job, Retry, Snooze
from tests.jobs import log_activity


class _HookRecorder(Job, abstract=True):
    """A base class that records the called hooks and their arguments."""

    queue = "default"
    tags = ("told",)

    def __init__(self) -> None:
        self.called_hooks: list[str] = []

    def before_start(self) -> None:
        self.record_hook("before_start", self.parameters)

    def on_success(self, result: Any) -> None:
        self.record_hook("on_success", result)

    def on_failure(self, error: BaseException) -> None:
        self.record_hook("on_failure", f"{type(error).__name__}: {error}")

    def on_retry(self, error: BaseException, delay: float) -> None:
        self.record_hook("on_retry", f"{type(error).__name__}: {error} {delay}")

    def on_cancel(self) -> None:
        self.record_hook("on_cancel", None)

    def after_return(self, state: str) -> None:
        self.record_hook("after_return", state)
        self.context.metadata["heard"] = " ".join(self.called_hooks)

    def record_hook(self, hook: str, content: object) -> None:
        """Record a hook in the log and in the object; `after_return` stores all in the metadata."""
        self.called_hooks.append(hook)
        self.context.log.info("%s %s", hook, content)


class Export(_HookRecorder):
    """Write the report of a month."""

    retry: ClassVar = {"strategy": "fixed", "delay": 0.05, "max_attempts": 2}
    priority = 7

    def run(
        self, month: str, context: Context, format: Literal["csv", "json"] = "csv", rows: int = 3
    ) -> dict[str, Any]:
        log_activity("start")
        context.progress(rows, rows)
        return {"month": month, "format": format, "rows": self.parameters["rows"], "heard": list(self.called_hooks)}


class EndingJob(_HookRecorder):
    """End in many ways."""

    name = "end_in_given_way"
    retry: ClassVar = {"strategy": "fixed", "delay": 0.05, "max_attempts": 2}

    def run(self, how: str, **more: int) -> object:
        log_activity("start")
        if how == "raises":
            raise ValueError(how)
        if how == "gives up":
            raise Abort(how)
        if how == "recovers" and self.context.attempt == 1:
            raise Retry(dt.timedelta(seconds=0.01), reason=how)
        if how == "put off" and self.context.attempt == 1:
            raise Snooze(0.01)
        return {object} if how == "rubbish" else sum(more.values())


class FailingHooksJob(Job):
    """A job whose hooks raise."""

    autoretry_for = (KeyError,)
    retry_kwargs: ClassVar = {"countdown": 0}
    max_retries = 1

    def before_start(self) -> None:
        raise RuntimeError("before")

    def run(self, good: bool) -> str:
        if not good:
            raise KeyError("bad")
        return "good"

    def on_success(self, result: str) -> None:
        raise SystemExit(3)

    def on_retry(self, error: BaseException, delay: float) -> None:
        raise RuntimeError("retry")

    def on_failure(self, error: BaseException) -> None:
        raise RuntimeError("failure")

    def after_return(self, state: str) -> None:
        raise RuntimeError(f"after {state}")


class CallingJob(Job):
    """A job that calls another class job as a function."""

    def run(self) -> Any:
        return Export.task(month="May", context=self.context)["month"]


class WaitingJob(_HookRecorder):
    """A job that runs until it is cancelled."""

    def run(self) -> None:
        log_activity("start")
        while True:
            self.context.raise_if_cancelled()
            time.sleep(0.05)


class IsolatedJob(_HookRecorder):
    """A job that runs in a process of its own."""

    isolation: ClassVar = {"mode": "process"}
    retry: ClassVar = {"strategy": "fixed", "delay": 0.05, "max_attempts": 2}

    def run(self) -> int:
        log_activity("start")
        if self.context.attempt == 1:
            raise ValueError("first")
        return os.getpid()
