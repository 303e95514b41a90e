"""Which attempts run outside of the pool's own processes."""

from collections.abc import Callable, Mapping
from typing import Any

from jobworker.domain.jobs.isolation import CONTAINER_TASK, IsolationMode, ProcessIsolation
from jobworker.worker.celery import tracer
from jobworker.worker.isolation import parent

#: Tasks that start another program and look after it.
_PROGRAM_TASKS = frozenset({CONTAINER_TASK, "shell.run"})

#: Pools that keep no time limit and in which a job may wait for a process of its own.
_BLOCKING_POOLS = frozenset({"threads", "solo"})

#: The worker's parent process steps in so much later (s) than an attempt that looks after itself.
BACKSTOP_SECONDS = 15.0


def select_tracer(task: str, header: Mapping[str, Any] | None, fast: bool, shared: bool) -> Callable[..., Any]:
    """What a pool runs for a message; one that is about no attempt has no header.

    `shared`: the jobs of this pool share a process.
    """
    if task not in _PROGRAM_TASKS:
        if _read_mode(header) is IsolationMode.PROCESS:
            return parent.run_isolated
        if shared and header is not None and header.get("apart"):
            return parent.run_apart
    return tracer.run_fast if fast else tracer.run_plain


def is_self_limiting(task: str, header: Mapping[str, Any] | None) -> bool:
    """Whether an attempt looks after its time limits and its cancellation by itself, on whatever pool."""
    return header is not None and (task in _PROGRAM_TASKS or _read_mode(header) is IsolationMode.PROCESS)


def isolate_in_process(header: dict[str, Any], pool: str) -> bool:
    """Give an attempt with limits a process of its own, on a pool that keeps none; False if that cannot be either."""
    if pool not in _BLOCKING_POOLS:
        return False
    header["policies"] = {**header.get("policies", {}), "isolation": ProcessIsolation().to_json()}
    return True


def _read_mode(header: Mapping[str, Any] | None) -> IsolationMode:
    described = (header or {}).get("policies", {}).get("isolation")
    return IsolationMode(described["mode"]) if described else IsolationMode.IN_PROCESS
