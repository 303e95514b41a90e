"""Checks and insertion of the dependencies of new executions."""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, InvalidDependency, format_pointer
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.domain.workflows.dependency import Dependency, DependencyResolution, ParentExecution
from jobworker.services.submissions.preparation import PreparedExecution
from jobworker.store.workflows import dependency_rows
from jobworker.store.workflows.dependency_rows import DependencyEdge

#: Maximum number of problems reported.
_MAX_PROBLEMS = 100


def check_parents(connection: sa.Connection, prepared: Sequence[PreparedExecution]) -> dict[str, ParentExecution]:
    """Lock the parents and return those that have ended. Raises `InvalidDependency`.

    The locks keep parents from ending before the dependents are inserted. Dependencies within the request are checked
    by the parser of the request.
    """
    own = {execution.row.id for execution in prepared}
    parent_ids = {dependency.parent for execution in prepared for dependency in execution.depends_on} - own
    if not parent_ids:
        return {}
    parents = dependency_rows.lock_parents(connection, parent_ids)
    problems = [problem for execution in prepared for problem in _validate_parents(execution, parents, own)]
    if problems:
        raise InvalidDependency("; ".join(problem.message for problem in problems[:5]), problems[:_MAX_PROBLEMS])
    return {name: parent for name, parent in parents.items() if parent.state in FINAL_STATES}


def insert(connection: sa.Connection, prepared: Iterable[PreparedExecution]) -> None:
    """Insert the dependencies of executions that were just inserted."""
    dependency_rows.insert(
        connection,
        [DependencyEdge(execution.row.id, dependency) for execution in prepared for dependency in execution.depends_on],
    )


def _validate_parents(
    execution: PreparedExecution, parents: Mapping[str, ParentExecution], own: set[str]
) -> Iterable[FieldError]:
    for at, dependency in enumerate(execution.depends_on):
        if dependency.parent not in own:
            problem = _validate_parent(
                dependency, parents.get(dependency.parent), execution.location + format_pointer("depends_on", at)
            )
            if problem is not None:
                yield problem


def _validate_parent(dependency: Dependency, parent: ParentExecution | None, location: str) -> FieldError | None:
    if parent is None:
        return FieldError(location, "dependency_not_found", f"there is no execution {dependency.parent} to depend on")
    if parent.state in FINAL_STATES and dependency.resolve(parent.state) is not DependencyResolution.MET:
        message = (
            f"execution {dependency.parent} has ended already: {parent.state}, and this waits for its {dependency.on}; "
            "depend on something else, or set otherwise to continue"
        )
        return FieldError(location, "dependency_failed", message)
    return None
