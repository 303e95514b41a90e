"""Accepting executions that depend on others."""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from jobworker.domain.dependencies import Dependency, Parent, Verdict
from jobworker.domain.errors import FieldError, InvalidDependency, pointer
from jobworker.domain.execution import FINAL
from jobworker.services.preparing import Prepared
from jobworker.store import dependencies
from jobworker.store.dependencies import Edge

#: So many problems are told.
_TOLD = 100


def check(connection: sa.Connection, prepared: Sequence[Prepared]) -> dict[str, Parent]:
    """What the executions depend on that has ended already; raises `InvalidDependency`.

    Parents are locked: none of them ends before the dependents are there. Dependencies within the request are left
    to whoever read it.
    """
    own = {each.row.id for each in prepared}
    wanted = {each.parent for one in prepared for each in one.depends_on} - own
    if not wanted:
        return {}
    parents = dependencies.lock_parents(connection, wanted)
    problems = [problem for one in prepared for problem in _problems(one, parents, own)]
    if problems:
        raise InvalidDependency("; ".join(each.message for each in problems[:5]), problems[:_TOLD])
    return {name: parent for name, parent in parents.items() if parent.state in FINAL}


def insert(connection: sa.Connection, prepared: Iterable[Prepared]) -> None:
    """Enter what executions that were just inserted depend on."""
    dependencies.insert(connection, [Edge(one.row.id, each) for one in prepared for each in one.depends_on])


def _problems(one: Prepared, parents: Mapping[str, Parent], own: set[str]) -> Iterable[FieldError]:
    for at, each in enumerate(one.depends_on):
        if each.parent not in own:
            problem = _problem(each, parents.get(each.parent), one.location + pointer("depends_on", at))
            if problem is not None:
                yield problem


def _problem(wanted: Dependency, parent: Parent | None, where: str) -> FieldError | None:
    if parent is None:
        return FieldError(where, "dependency_not_found", f"there is no execution {wanted.parent} to depend on")
    if parent.state in FINAL and wanted.resolve(parent.state) is not Verdict.MET:
        message = (
            f"execution {wanted.parent} has ended already: {parent.state}, and this waits for its {wanted.on}; "
            "depend on something else, or say otherwise: continue"
        )
        return FieldError(where, "dependency_failed", message)
    return None
