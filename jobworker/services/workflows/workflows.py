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
from jobworker.store.database.database import Database
from jobworker.store.workflows.batches import BatchKind, NewBatch


def submit(
    database: Database, clock: Clock, workflow: Workflow, actor: str, idempotency_key: IdempotencyKey | None = None
) -> SubmissionResult:
    """Submit a workflow; one invalid step rejects the workflow."""
    request = SubmissionContext(actor, clock.now(), idempotency_key, commit.compute_fingerprint(workflow, "workflow"))
    needs = planning.plan_steps(workflow)
    options = BatchOptions(workflow.name, workflow.correlation_id, workflow.on_complete)
    with database.read() as connection:
        replay = commit.find_replay(connection, request)
        if replay is not None:
            return replay
        submissions = [*(step.submission for step in workflow.steps.values()), *options.submissions]
        catalog = preparation.load_catalog(
            connection, [submission.job for submission in submissions], [submission.queue for submission in submissions]
        )
    batch = batch_completion.prepare_batch(BatchKind.WORKFLOW, options, catalog, request.now, actor)
    return commit.commit_submission(database, _prepare_steps(workflow, needs, catalog, batch), catalog, batch, request)


def _prepare_steps(
    workflow: Workflow, needs: dict[str, list[StepDependency]], catalog: JobCatalog, batch: NewBatch
) -> list[PreparedExecution]:
    prepared: dict[str, PreparedExecution] = {}
    problems: list[FieldError] = []
    for name, needed in needs.items():
        where = format_pointer("steps", name)
        submission = workflow.steps[name].submission
        submission = replace(submission, correlation_id=submission.correlation_id or batch.correlation_id)
        sources = [dependency.step for dependency in needed]
        try:
            prepared[name] = preparation.prepare_execution(
                submission, catalog, batch.created_at, where, batch.id, sources
            )
        except JobWorkerError as error:
            problems.extend(preparation.list_problems(error, where))
    preparation.raise_if_problems(problems, "steps of the workflow")
    ids = {name: execution.row.id for name, execution in prepared.items()}
    return [_link_step(name, execution, workflow, needs[name], ids) for name, execution in prepared.items()]


def _link_step(
    name: str, prepared: PreparedExecution, workflow: Workflow, needs: list[StepDependency], ids: dict[str, str]
) -> PreparedExecution:
    """Add the dependencies of a step; every step has an id now."""
    own = [
        Dependency(ids[dependency.step], dependency.on, dependency.otherwise or UnmetDependencyAction.SKIP)
        for dependency in needs
    ]
    step = replace(prepared, row=replace(prepared.row, step=name))
    return preparation.add_dependencies(step, own, keep_deadline=workflow.steps[name].submission.expires_at is not None)
