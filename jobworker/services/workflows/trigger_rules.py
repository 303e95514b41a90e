"""Validation of triggers: their jobs exist, and jobs do not trigger each other in a cycle."""

from collections.abc import Sequence

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.workflows import graph
from jobworker.domain.workflows.trigger import Trigger
from jobworker.store import jobs
from jobworker.store.workflows import trigger_rows


def check_triggers(connection: sa.Connection, definition: JobDefinition) -> None:
    """Raise `InvalidInput` for triggers by missing jobs, and for cycles; triggers are locked until the commit."""
    triggers = definition.triggers
    if not triggers:
        return
    trigger_rows.lock(connection)
    job_rows = jobs.get_many(connection, [trigger.job for trigger in triggers])
    problems = [
        FieldError(
            format_pointer("trigger_after", at, "job"),
            "job_not_found",
            f"there is no job {trigger.job!r}; GET /api/v1/jobs lists all",
        )
        for at, trigger in enumerate(triggers)
        if trigger.job not in job_rows and trigger.job != definition.name
    ]
    path = find_cycle(connection, definition.name, triggers)
    if path is not None:
        message = f"jobs would trigger each other forever: {' -> '.join(path)}"
        problems.append(FieldError("/trigger_after", "cycle", message))
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)


def find_cycle(connection: sa.Connection, job: str, new_triggers: Sequence[Trigger]) -> list[str] | None:
    """Return the cycle that `new_triggers` of `job` would close, or None."""
    before: dict[str, list[str]] = {}
    for name, after in trigger_rows.list_edges(connection):
        before.setdefault(name, []).append(after)
    return graph.find_cycle({**before, job: [trigger.job for trigger in new_triggers]})
