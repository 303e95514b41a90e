"""Comparison of two JSON values, and of two executions of a job."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jobworker.domain.errors import format_pointer

#: Maximum number of differences reported.
MAX_DIFFERENCES = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where two values differ. `change` is added, removed or changed; `pointer` leads into `part`."""

    part: str
    pointer: str
    change: str
    before: Any
    now: Any


class ComparableExecution(Protocol):
    """The properties of an execution that are compared."""

    @property
    def job_revision(self) -> int: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    @property
    def overrides(self) -> Mapping[str, Any] | None: ...

    @property
    def code_version(self) -> str | None: ...

    @property
    def worker(self) -> str | None: ...


def compare_executions(
    before: ComparableExecution, after: ComparableExecution, definitions: tuple[Any, Any]
) -> list[Difference]:
    """Return how execution `after` differs from `before`; `definitions` are the job definitions of both.

    Worker, host and code version are compared only if a worker has started `after`.
    """
    differences = [*_compare_field("revision", before.job_revision, after.job_revision)]
    differences += compare_values("definition", *definitions)
    differences += compare_values("parameters", before.parameters, after.parameters)
    differences += compare_values("overrides", before.overrides or {}, after.overrides or {})
    if after.worker is not None:
        differences += _compare_field("code_version", before.code_version, after.code_version)
        differences += _compare_field("worker", _get_node_name(before.worker), _get_node_name(after.worker))
        differences += _compare_field("host", _get_host_name(before.worker), _get_host_name(after.worker))
    return differences[:MAX_DIFFERENCES]


def compare_values(part: str, before: Any, after: Any, where: str = "") -> Iterator[Difference]:
    """Yield every place where two JSON values differ; lists of different lengths differ as a whole."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            place = where + format_pointer(name)
            if name not in after:
                yield Difference(part, place, "removed", before[name], None)
            elif name not in before:
                yield Difference(part, place, "added", None, after[name])
            else:
                yield from compare_values(part, before[name], after[name], place)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for at, (item_before, item_after) in enumerate(zip(before, after, strict=True)):
            yield from compare_values(part, item_before, item_after, where + format_pointer(at))
    elif type(before) is not type(after) or before != after:
        yield Difference(part, where, "changed", before, after)


def _compare_field(part: str, before: Any, after: Any) -> Iterator[Difference]:
    if before != after:
        yield Difference(part, "", "changed", before, after)


def _get_node_name(worker: str | None) -> str | None:
    """Return a worker's id without the parts that change with each start: `celery@host:17:ab12` → `celery@host`."""
    return worker.rsplit(":", 2)[0] if worker else None


def _get_host_name(worker: str | None) -> str | None:
    node = _get_node_name(worker)
    return node.partition("@")[2] or node if node else None
