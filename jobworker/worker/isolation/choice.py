"""Which attempts run outside of the pool's own processes."""

from collections.abc import Callable, Mapping
from typing import Any

from jobworker.domain.isolation import CONTAINER_TASK, Mode, Process
from jobworker.worker import trace
from jobworker.worker.isolation import host

#: Tasks that start another program and look after it.
_PROGRAMS = frozenset({CONTAINER_TASK, "shell.run"})

#: Pools that keep no time limit and in which a job may wait for a process of its own.
_PATIENT_POOLS = frozenset({"threads", "solo"})

#: The worker's parent process steps in so much later (s) than an attempt that looks after itself.
BACKSTOP = 15.0


def tracer(task: str, header: Mapping[str, Any] | None, fast: bool, shared: bool) -> Callable[..., Any]:
    """What a pool runs for a message; one that is about no attempt has no header.

    `shared`: the jobs of this pool share a process.
    """
    if task not in _PROGRAMS:
        if _mode(header) is Mode.PROCESS:
            return host.isolated
        if shared and header is not None and header.get("apart"):
            return host.apart
    return trace.fast if fast else trace.plain


def keeps_its_limits(task: str, header: Mapping[str, Any] | None) -> bool:
    """Whether an attempt looks after its time limits and its cancellation by itself, on whatever pool."""
    return header is not None and (task in _PROGRAMS or _mode(header) is Mode.PROCESS)


def isolate(header: dict[str, Any], pool: str) -> bool:
    """Give an attempt with limits a process of its own, on a pool that keeps none; False if that cannot be either."""
    if pool not in _PATIENT_POOLS:
        return False
    header["policies"] = {**header.get("policies", {}), "isolation": Process().to_json()}
    return True


def _mode(header: Mapping[str, Any] | None) -> Mode:
    described = (header or {}).get("policies", {}).get("isolation")
    return Mode(described["mode"]) if described else Mode.IN_PROCESS
