"""Selection of the attempts that run outside of the pool's own processes."""

from collections.abc import Callable, Mapping
from typing import Any

from jobworker.domain.jobs.isolation import CONTAINER_TASK, IsolationMode, ProcessIsolation
from jobworker.worker.celery import tracer
from jobworker.worker.isolation import parent

#: Tasks that start another program and enforce its limits.
_PROGRAM_TASKS = frozenset({CONTAINER_TASK, "shell.run"})

#: Pools that enforce no time limit and in which a job may wait for its own process.
_BLOCKING_POOLS = frozenset({"threads", "solo"})

#: Time by which the worker's parent process acts later (s) than an attempt that enforces its own limits.
BACKSTOP_SECONDS = 15.0


def select_tracer(task: str, header: Mapping[str, Any] | None, fast: bool, shared: bool) -> Callable[..., Any]:
    """Return the function with which a pool runs a message; a plain Celery task's message has no header.

    `shared`: the jobs of this pool share a process.
    """
    if task not in _PROGRAM_TASKS:
        if _read_mode(header) is IsolationMode.PROCESS:
            return parent.run_isolated
        if shared and header is not None and header.get("apart"):
            return parent.run_apart
    return tracer.run_fast if fast else tracer.run_plain


def is_self_limiting(task: str, header: Mapping[str, Any] | None) -> bool:
    """Return whether an attempt enforces its time limits and its cancellation by itself, on every pool."""
    return header is not None and (task in _PROGRAM_TASKS or _read_mode(header) is IsolationMode.PROCESS)


def isolate_in_process(header: dict[str, Any], pool: str) -> bool:
    """Set process isolation for an attempt with limits, on a pool that enforces none; return whether the pool can."""
    if pool not in _BLOCKING_POOLS:
        return False
    header["policies"] = {**header.get("policies", {}), "isolation": ProcessIsolation().to_json()}
    return True


def _read_mode(header: Mapping[str, Any] | None) -> IsolationMode:
    described = (header or {}).get("policies", {}).get("isolation")
    return IsolationMode(described["mode"]) if described else IsolationMode.IN_PROCESS
