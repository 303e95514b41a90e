"""Every task is a `JobTask`, whatever class its author chose: otherwise it would run and nobody would hear of it."""

from typing import Any

import pytest
from celery import Task

from jobworker.worker.celery.task import JobApp, JobTask


def double(number: int) -> int:
    return 2 * number


class Counting(Task):  # type: ignore[misc]
    """A base class of a user's."""

    abstract = True
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().__call__(*args, **kwargs)


@pytest.fixture
def app() -> JobApp:
    """An app with nothing in it."""
    return JobApp("test", set_as_current=False, broker="memory://")


def test_a_function_with_a_base_class_keeps_what_that_does(app: JobApp) -> None:
    app.task(name="double", base=Counting, shared=False)(double)
    task = app.tasks["double"]
    assert isinstance(task, JobTask)
    assert isinstance(task, Counting)
    assert (task(4), task.calls) == (8, 1)


def test_a_function_without_one(app: JobApp) -> None:
    app.task(name="double", shared=False)(double)
    assert type(app.tasks["double"]).__mro__[1] is app.Task
    assert issubclass(app.Task, JobTask)


@pytest.mark.parametrize("as_class", [True, False])
def test_a_task_that_is_a_class(app: JobApp, as_class: bool) -> None:
    class Triple(Counting):
        name = "triple"

        def run(self, number: int) -> int:
            return 3 * number

    task = app.register_task(Triple if as_class else Triple())
    assert isinstance(task, JobTask)
    assert app.tasks["triple"] is task
    assert (task(4), task.calls) == (12, 1)
