"""Submission of workflows: all steps in one transaction."""

from dataclasses import replace

from jobworker.clock import Clock
from jobworker.domain.errors import FieldError, JobWorkerError, format_pointer
from jobworker.domain.workflows import workflow as planning
from jobworker.domain.workflows.dependency import Dependency, UnmetDependencyAction
from jobworker.domain.workflows.workflow import StepDependency, Workflow
from jobworker.services.submissions import commit, preparation
from jobworker.services.submissions.commit import IdempotencyKey, SubmissionContext, SubmissionResult
from jobworker.services.submissions.preparation import JobCatalog, PreparedExecution
from jobworker.services.workflows import batch_completion
from jobworker.services.workflows.batch_completion import BatchOptions
from jobworker.store.engine.database import Database
from jobworker.store.executions.batches import BatchKind, NewBatch


def submit(
    database: Database, clock: Clock, workflow: Workflow, actor: str, idempotency_key: IdempotencyKey | None = None
) -> SubmissionResult:
    """Submit a workflow; one invalid step rejects the workflow."""
    request = SubmissionContext(actor, clock.now(), idempotency_key, commit.compute_fingerprint(workflow, "workflow"))
    needs = planning.plan_steps(workflow)
    about = BatchOptions(workflow.name, workflow.correlation_id, workflow.on_complete)
    with database.read() as connection:
        replay = commit.find_replay(connection, request)
        if replay is not None:
            return replay
        named = [*(each.submission for each in workflow.steps.values()), *about.submissions]
        known = preparation.load_catalog(connection, [each.job for each in named], [each.queue for each in named])
    batch = batch_completion.prepare_batch(BatchKind.WORKFLOW, about, known, request.now, actor)
    return commit.commit_submission(database, _prepare_steps(workflow, needs, known, batch), known, batch, request)


def _prepare_steps(
    workflow: Workflow, needs: dict[str, list[StepDependency]], catalog: JobCatalog, batch: NewBatch
) -> list[PreparedExecution]:
    prepared: dict[str, PreparedExecution] = {}
    problems: list[FieldError] = []
    for name, needed in needs.items():
        where = format_pointer("steps", name)
        wanted = workflow.steps[name].submission
        wanted = replace(wanted, correlation_id=wanted.correlation_id or batch.correlation_id)
        sources = [each.step for each in needed]
        try:
            prepared[name] = preparation.prepare_execution(wanted, catalog, batch.created_at, where, batch.id, sources)
        except JobWorkerError as error:
            problems.extend(preparation.list_problems(error, where))
    preparation.raise_if_problems(problems, "steps of the workflow")
    ids = {name: one.row.id for name, one in prepared.items()}
    return [_link_step(name, one, workflow, needs[name], ids) for name, one in prepared.items()]


def _link_step(
    name: str, prepared: PreparedExecution, workflow: Workflow, needs: list[StepDependency], ids: dict[str, str]
) -> PreparedExecution:
    """Add the dependencies of a step; every step has an id now."""
    own = [Dependency(ids[each.step], each.on, each.otherwise or UnmetDependencyAction.SKIP) for each in needs]
    named = replace(prepared, row=replace(prepared.row, step=name))
    return preparation.add_dependencies(
        named, own, keep_deadline=workflow.steps[name].submission.expires_at is not None
    )
