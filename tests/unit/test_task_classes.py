"""Tasks are instances of `JobTask`, whichever class their author chose: otherwise executions would not be reported."""

from typing import Any

import pytest
from celery import Task

from jobworker.worker.celery.task import JobApp, JobTask


def double(number: int) -> int:
    return 2 * number


class Counting(Task):  # type: ignore[misc]
    """A task base class of a user."""

    abstract = True
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().__call__(*args, **kwargs)


@pytest.fixture
def app() -> JobApp:
    """An app without tasks."""
    return JobApp("test", set_as_current=False, broker="memory://")


def test_function_task_keeps_behaviour_of_its_base_class(app: JobApp) -> None:
    app.task(name="double", base=Counting, shared=False)(double)
    task = app.tasks["double"]
    assert isinstance(task, JobTask)
    assert isinstance(task, Counting)
    assert (task(4), task.calls) == (8, 1)


def test_function_task_without_base_is_job_task(app: JobApp) -> None:
    app.task(name="double", shared=False)(double)
    assert type(app.tasks["double"]).__mro__[1] is app.Task
    assert issubclass(app.Task, JobTask)


@pytest.mark.parametrize("as_class", [True, False])
def test_class_task_is_job_task(app: JobApp, as_class: bool) -> None:
    class TriplingTask(Counting):
        name = "triple"

        def run(self, number: int) -> int:
            return 3 * number

    task = app.register_task(TriplingTask if as_class else TriplingTask())
    assert isinstance(task, JobTask)
    assert app.tasks["triple"] is task
    assert (task(4), task.calls) == (12, 1)
