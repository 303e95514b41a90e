"""Where two JSON values differ, and where two executions of a job do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jobworker.domain.errors import pointer

#: So many are told; who changed more than that looks at both sides himself.
MAX_DIFFERENCES = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two sides differ. `change` is added, removed or changed; `pointer` leads into `part`."""

    part: str
    pointer: str
    change: str
    before: Any
    now: Any


class Ran(Protocol):
    """What is compared of an execution."""

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


def between(before: Ran, now: Ran, definitions: tuple[Any, Any]) -> list[Difference]:
    """How execution `now` differs from `before`; `definitions` are those of both. What is not known yet does not."""
    found = [*_single("revision", before.job_revision, now.job_revision)]
    found += of_values("definition", *definitions)
    found += of_values("parameters", before.parameters, now.parameters)
    found += of_values("overrides", before.overrides or {}, now.overrides or {})
    if now.worker is not None:
        found += _single("code_version", before.code_version, now.code_version)
        found += _single("worker", _node(before.worker), _node(now.worker))
        found += _single("host", _host(before.worker), _host(now.worker))
    return found[:MAX_DIFFERENCES]


def of_values(part: str, before: Any, now: Any, where: str = "") -> Iterator[Difference]:
    """Every place where two JSON values differ; lists of different lengths differ as a whole."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted({*before, *now}):
            place = where + pointer(name)
            if name not in now:
                yield Difference(part, place, "removed", before[name], None)
            elif name not in before:
                yield Difference(part, place, "added", None, now[name])
            else:
                yield from of_values(part, before[name], now[name], place)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for at, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from of_values(part, one, other, where + pointer(at))
    elif type(before) is not type(now) or before != now:
        yield Difference(part, where, "changed", before, now)


def _single(part: str, before: Any, now: Any) -> Iterator[Difference]:
    if before != now:
        yield Difference(part, "", "changed", before, now)


def _node(worker: str | None) -> str | None:
    """A worker's id without what is new after each start: `celery@host:17:ab12` → `celery@host`."""
    return worker.rsplit(":", 2)[0] if worker else None


def _host(worker: str | None) -> str | None:
    node = _node(worker)
    return node.partition("@")[2] or node if node else None
