"""Driver that submits workflows and batches to an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.admission import Submission
from jobworker.domain.workflows.workflow import Workflow, WorkflowStep
from jobworker.services.submissions import submission
from jobworker.services.workflows import batches, workflows
from jobworker.services.workflows.batch_completion import BatchOptions
from jobworker.services.workflows.batches import BatchStatus
from jobworker.store.executions import executions
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from tests.engine import Engine
from tests.polling import wait_until


def make_step(job: str, *needs: Any, on_failure: str | None = None, **fields: Any) -> WorkflowStep:
    """Return a step of a workflow."""
    return WorkflowStep(Submission(job=job, **fields), needs, on_failure)


@dataclass
class WorkflowDriver:
    """Driver for workflows and batches on an engine."""

    engine: Engine

    def submit_workflow(self, **steps: WorkflowStep) -> tuple[str, dict[str, str]]:
        """Submit a workflow and return its id and the ids of its executions by step."""
        engine = self.engine
        accepted = workflows.submit(engine.database, engine.clock, Workflow(steps), "tester")
        engine.notify_relay()
        status = self.get_batch(accepted.batch_id or "")
        assert status.steps is not None
        return status.row.id, {step.row.step: step.row.execution_id for step in status.steps}

    def submit_batch(self, submissions: Sequence[Submission], **options: Any) -> tuple[str, Sequence[str]]:
        """Submit a batch and return its id and the ids of its executions."""
        engine = self.engine
        accepted = submission.submit_batch(
            engine.database, engine.clock, submissions, "tester", options=BatchOptions(**options)
        )
        engine.notify_relay()
        return accepted.batch_id or "", accepted.execution_ids

    def get_batch(self, batch_id: str) -> BatchStatus:
        """Return the status of a batch."""
        return batches.get(self.engine.database, batch_id)

    def wait_until_completed(self, batch_id: str) -> BatchStatus:
        """Wait until a batch is complete and return its status."""
        wait_until(lambda: self.get_batch(batch_id).row.completed_at, within=120, what=f"{batch_id} to be complete")
        return self.get_batch(batch_id)

    def cancel_batch(self, batch_id: str) -> None:
        """Cancel a batch."""
        batches.cancel(self.engine.database, self.engine.clock, batch_id, "tester")
        self.engine.notify_relay()

    def wait_for_final_states(self, ids: dict[str, str]) -> dict[str, ExecutionState]:
        """Wait for the end of each step and return the states by step."""
        return {name: self.engine.wait_until_final(execution).state for name, execution in ids.items()}

    def list_executions(self, **filters: Any) -> Sequence[ExecutionRow]:
        """Return the executions that a filter selects, newest first."""
        with self.engine.database.read() as connection:
            return executions.list_page(connection, ExecutionFilters(**filters), 200).items
