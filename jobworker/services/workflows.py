"""Accepting workflows: all of their steps in one transaction."""

from dataclasses import replace

from jobworker.clock import Clock
from jobworker.domain import workflow as planning
from jobworker.domain.dependencies import Dependency, Otherwise
from jobworker.domain.errors import FieldError, JobWorkerError, pointer
from jobworker.domain.workflow import Need, Workflow
from jobworker.services import accepting, completion, preparing
from jobworker.services.accepting import Accepted, Once, Request
from jobworker.services.completion import About
from jobworker.services.preparing import Known, Prepared
from jobworker.store.batches import Kind, NewBatch
from jobworker.store.database import Database


def submit(database: Database, clock: Clock, workflow: Workflow, actor: str, once: Once | None = None) -> Accepted:
    """Accept a workflow, or nothing of it if any of its steps is wrong."""
    request = Request(actor, clock.now(), once, accepting.fingerprint(workflow, "workflow"))
    needs = planning.plan(workflow)
    about = About(workflow.name, workflow.correlation_id, workflow.on_complete)
    with database.read() as connection:
        replay = accepting.replayed(connection, request)
        if replay is not None:
            return replay
        named = [*(each.submission for each in workflow.steps.values()), *about.submissions]
        known = preparing.look_up(connection, [each.job for each in named], [each.queue for each in named])
    batch = completion.prepare(Kind.WORKFLOW, about, known, request.now, actor)
    return accepting.accept(database, _steps(workflow, needs, known, batch), known, batch, request)


def _steps(workflow: Workflow, needs: dict[str, list[Need]], known: Known, batch: NewBatch) -> list[Prepared]:
    prepared: dict[str, Prepared] = {}
    problems: list[FieldError] = []
    for name, needed in needs.items():
        where = pointer("steps", name)
        wanted = workflow.steps[name].submission
        wanted = replace(wanted, correlation_id=wanted.correlation_id or batch.correlation_id)
        sources = [each.step for each in needed]
        try:
            prepared[name] = preparing.prepare(wanted, known, batch.created_at, where, batch.id, sources)
        except JobWorkerError as error:
            problems.extend(preparing.problems_of(error, where))
    preparing.refuse(problems, "steps of the workflow")
    ids = {name: one.row.id for name, one in prepared.items()}
    return [_linked(name, one, workflow, needs[name], ids) for name, one in prepared.items()]


def _linked(name: str, one: Prepared, workflow: Workflow, needed: list[Need], ids: dict[str, str]) -> Prepared:
    """The step with what it needs, now that every step has an id."""
    own = [Dependency(ids[each.step], each.on, each.otherwise or Otherwise.SKIP) for each in needed]
    named = replace(one, row=replace(one.row, step=name))
    return preparing.waiting(named, own, keep_deadline=workflow.steps[name].submission.expires_at is not None)
