"""A job whose code was removed rejects submissions; a job whose workers are merely down accepts them."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from jobworker.domain.errors import InvalidInput, JobRemoved
from jobworker.domain.submissions.submission import Submission
from jobworker.domain.workflows.workflow import Workflow, WorkflowStep
from jobworker.services.bulk.actions import Selection
from jobworker.services.executions import dead_letters
from jobworker.services.executions.dead_letters import RedriveOptions
from jobworker.services.jobs import task_catalog
from jobworker.services.jobs.task_catalog import WorkerOffer
from jobworker.services.schedules import evaluator, occurrences, schedules
from jobworker.services.workflows import workflows
from jobworker.store import tasks, workers
from jobworker.store.database.database import Database
from jobworker.store.tables.schedules import occurrences as occurrences_table
from jobworker.store.workers import WorkerRow
from tests.conformance.execution_driver import FAILED, SUCCEEDED, ExecutionDriver


def _make_announcement(name: str, **policies: Any) -> dict[str, Any]:
    options = {"queue": "default", "priority": 5, "on_worker_lost": "retry", "policies": policies}
    return {"name": name, "description": "", "parameters": [], "options": options}


class TaskRemovalDriver(ExecutionDriver):
    """Driver whose workers announce their tasks."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._live: dict[str, tuple[WorkerRow, WorkerOffer]] = {}

    def start_worker(
        self,
        name: str,
        *task_names: str,
        package: str = "tasks",
        queue: str = "default",
        is_complete: bool = True,
        registers: bool = True,
    ) -> None:
        """Start a worker one second after the previous one."""
        self.clock.advance(1)
        now = self.clock.now()
        if registers:
            task_catalog.register_tasks(
                self.database, self.clock, [_make_announcement(task_name) for task_name in task_names], name, package
            )
        row = WorkerRow(name, "host", 1, "prefork", 2, (queue,), task_names, name, now, now)
        self._live[name] = row, WorkerOffer(package, is_complete, (queue,), task_names, now)
        self._record_live_workers()

    def stop_worker(self, name: str) -> None:
        """Stop a worker."""
        del self._live[name]
        self._record_live_workers()

    def _record_live_workers(self) -> None:
        with self.database.write() as connection:
            workers.update_live(connection, [row for row, _ in self._live.values()], self.clock.now())
            task_catalog.mark_removed_tasks(connection, [offer for _, offer in self._live.values()], self.clock.now())

    def is_removed(self, name: str = "export") -> bool:
        """Return whether the task is marked as removed."""
        with self.database.read() as connection:
            row = tasks.get(connection, name)
        assert row is not None
        return row.removed_at is not None


@pytest.fixture
def driver(database: Database) -> TaskRemovalDriver:
    return TaskRemovalDriver(database)


@pytest.fixture
def removed(driver: TaskRemovalDriver) -> TaskRemovalDriver:
    """Driver whose code version 2 has no task `export` any more."""
    driver.start_worker("v1", "export", "mail")
    driver.stop_worker("v1")
    driver.start_worker("v2", "mail")
    return driver


def test_task_is_removed_once_only_later_versions_without_it_are_left(driver: TaskRemovalDriver) -> None:
    driver.start_worker("v1", "export", "mail")
    driver.start_worker("v1-too", "export", "mail")
    driver.start_worker("v2", "mail")
    driver.stop_worker("v1")
    assert not driver.is_removed()
    driver.stop_worker("v1-too")
    assert driver.is_removed()
    assert not driver.is_removed("mail")


def test_task_is_not_removed_while_no_worker_is_up(driver: TaskRemovalDriver) -> None:
    driver.start_worker("v1", "export", "mail")
    driver.stop_worker("v1")
    assert not driver.is_removed()


@pytest.mark.parametrize(
    "difference", [{"package": "reports"}, {"queue": "gpu"}, {"is_complete": False}], ids=["package", "queue", "broken"]
)
def test_task_is_not_removed_by_workers_that_need_not_have_it(
    driver: TaskRemovalDriver, difference: dict[str, Any]
) -> None:
    driver.start_worker("v1", "export", "mail")
    driver.stop_worker("v1")
    driver.start_worker("other", "mail", **difference)
    assert not driver.is_removed()


def test_task_is_not_removed_when_the_latest_workers_are_down(driver: TaskRemovalDriver) -> None:
    """The remaining worker started before them, so it runs the earlier version."""
    driver.start_worker("v1", "mail")
    driver.start_worker("v2", "export", "mail")
    driver.stop_worker("v2")
    assert not driver.is_removed()


def test_task_without_announcement_is_not_removed(driver: TaskRemovalDriver) -> None:
    task_catalog.register_unannounced_tasks(driver.database, driver.clock, [_make_announcement("export")], "v2")
    driver.start_worker("v1", "mail")
    assert not driver.is_removed()


def test_restored_task_accepts_submissions_again(removed: TaskRemovalDriver) -> None:
    with pytest.raises(JobRemoved):
        removed.submit("export")
    removed.start_worker("v1", "export", "mail")
    assert removed.submit("export")


def test_task_of_known_catalog_is_restored_when_its_worker_starts(removed: TaskRemovalDriver) -> None:
    """A relay reads each catalog once."""
    removed.start_worker("v1 again", "export", registers=False)
    assert removed.submit("export")


def test_submission_error_names_removed_job_time_and_remedy(removed: TaskRemovalDriver) -> None:
    with pytest.raises(JobRemoved) as caught:
        removed.submit("export")
    for part in ("job export", "2026-03-02 12:00:02 UTC", "code version v1", "start a worker", "DELETE /api/v1/jobs"):
        assert part in caught.value.detail


def _submit_batch(driver: TaskRemovalDriver) -> None:
    driver.submit_batch(Submission(job="mail"), Submission(job="export"))


def _submit_batch_with_completion(driver: TaskRemovalDriver) -> None:
    driver.submit_batch(Submission(job="mail"), on_complete=Submission(job="export"))


@pytest.mark.parametrize(
    ("ask", "pointer"), [(_submit_batch, "/executions/1/job"), (_submit_batch_with_completion, "/on_complete/job")]
)
def test_batch_with_removed_job_is_rejected_with_pointer(
    removed: TaskRemovalDriver, ask: Callable[[TaskRemovalDriver], None], pointer: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(removed)
    assert [(problem.pointer, problem.code) for problem in caught.value.errors] == [(pointer, "job_removed")]


def test_workflow_with_removed_job_is_rejected_with_pointer(removed: TaskRemovalDriver) -> None:
    steps = {"first": WorkflowStep(Submission(job="mail")), "second": WorkflowStep(Submission(job="export"))}
    with pytest.raises(InvalidInput) as caught:
        workflows.submit(removed.database, removed.clock, Workflow(steps), "ann")
    assert [(problem.pointer, problem.code) for problem in caught.value.errors] == [
        ("/steps/second/job", "job_removed")
    ]


def test_rerun_of_removed_job_is_rejected(driver: TaskRemovalDriver) -> None:
    driver.start_worker("v1", "export", "mail")
    failed = driver.submit("export")
    driver.report_end(failed, FAILED)
    driver.stop_worker("v1")
    driver.start_worker("v2", "mail")
    with pytest.raises(JobRemoved):
        dead_letters.rerun(driver.database, driver.clock, failed, RedriveOptions(), "ann")
    done = dead_letters.redrive(driver.database, driver.clock, Selection(ids=[failed]), RedriveOptions(), "ann")
    assert [problem.code for problem in done.problems] == ["job_removed"]


def test_occurrences_of_removed_job_are_skipped_with_reason(removed: TaskRemovalDriver) -> None:
    described = {"name": "nightly", "job": "export", "rule": {"kind": "interval", "every": 60}}
    created = schedules.create(removed.database, removed.clock, described, "ann")
    assert any("has been removed" in warning for warning in created.warnings)
    removed.clock.advance(90)
    now = removed.clock.now()
    with removed.database.write() as connection:
        evaluator.evaluate_due(connection, {created.row.id: now}, now)
        [outcome] = connection.execute(sa.select(occurrences_table.c.outcome, occurrences_table.c.reason)).all()
    assert outcome.outcome == "skipped_paused"
    assert "the code of job export has been removed" in outcome.reason
    with pytest.raises(JobRemoved, match="schedule nightly cannot be fired: the code of job export"):
        occurrences.fire(removed.database, removed.clock, "nightly", None, "ann")


def test_trigger_of_removed_job_starts_nothing_and_is_logged(driver: TaskRemovalDriver) -> None:
    driver.start_worker("v1", "mail")
    after = {"job": "load", "on": "success", "parameters": {}}
    described = _make_announcement("export", trigger_after=[after])
    task_catalog.register_tasks(driver.database, driver.clock, [described], "v1", "tasks")
    driver.start_worker("v2", "mail")
    assert driver.is_removed()
    with structlog.testing.capture_logs() as logs:
        driver.report_end(driver.submit("load"), SUCCEEDED)
    assert driver.list_executions("export") == []
    assert [line["job"] for line in logs if line["event"] == "trigger_of_removed_job"] == ["export"]
