"""Declarations that `@job` refuses at import, and annotations that cannot be resolved."""

import functools
from typing import TYPE_CHECKING, Any

import pytest

from jobworker.declare import Context, Job, job
from jobworker.domain.errors import ConfigurationError
from jobworker.domain.jobs import parameters

if TYPE_CHECKING:
    from decimal import Decimal

    from jobworker import Context as HiddenContext


def work(x: int = 1) -> int:
    return x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "/name: name must begin with a letter or digit and have at most 128 characters"),
        ({"name": "x" * 129}, "/name: name must begin with a letter or digit and have at most 128 characters"),
        ({"name": "no spaces"}, "/name: name must"),
        ({"name": 7}, "/name: name must be a text, not 7"),
        (
            {"timelimit": 60},
            "/timelimit: timelimit is not an option of jobs or of Celery's tasks; did you mean time_limit?",
        ),
        ({"qeue": "a"}, "/qeue: qeue is not an option of jobs or of Celery's tasks; did you mean queue?"),
        ({"xyzzy": 1}, "/xyzzy: xyzzy is not an option of jobs or of Celery's tasks, nor is it an attribute of"),
        ({"timeout": 5}, "/timeout: timeout is not an option of jobs or of Celery's tasks; did you mean time_limit?"),
        ({"rate_limit": "10/x"}, '/rate_limit: rate_limit must be like "10/s", "10/m" or "10/h"'),
        ({"rate_limit": "10/min"}, '/rate_limit: rate_limit must be like "10/s", "10/m" or "10/h"'),
        (
            {"autoretry_for": OSError},
            "/autoretry_for: autoretry_for must be a tuple of classes of exceptions: (OSError,)",
        ),
        ({"autoretry_for": ("OSError",)}, "/autoretry_for: autoretry_for must be a tuple of classes"),
        ({"retry_jitter": "x"}, "/retry_jitter: retry_jitter must be True or False"),
        ({"base": int}, "/base: base must be a class that derives from celery.Task, not <class 'int'>"),
        ({"run": 1}, "/run: run is a method of tasks"),
        ({"serializer": "pickle"}, '/serializer: serializer must be "json"'),
        ({"expires": "x"}, "/expires: expires must be a number of seconds, 0 or more, or a datetime"),
        ({"name": "celery.mine"}, "task celery.mine: names that begin with celery. are of Celery's own tasks"),
        ({"tags": "abc"}, "/tags: tags must be a list of texts, not 'abc'"),
        ({"tags": [1]}, "/tags: tags must be a list of texts, not"),
        ({"tags": ["x" * 65]}, "/tags: at most 50 tags of 1 to 64 printable characters"),
        ({"priority": "high"}, "/priority: priority must be an integer, not 'high'"),
        ({"priority": 10}, "/priority: priority must be 0 to 9"),
        ({"queue": "No"}, "/queue: queue must begin with a-z"),
        ({"on_worker_lost": "ignore"}, "/on_worker_lost: on_worker_lost must be 'retry' or 'fail', not 'ignore'"),
    ],
)
def test_invalid_job_options_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        job(**options)(work)
    assert message in str(caught.value)


def test_options_of_celery_and_base_classes_accepted() -> None:
    from celery import Task

    class Base(Task):  # type: ignore[misc]
        database = None

    def bound(self: Task) -> None:
        """Do nothing."""

    options: dict[str, Any] = {
        "bind": True,
        "acks_late": True,
        "ignore_result": False,
        "rate_limit": "1/s",
        "retry_backoff": 2,
    }
    job(name="declared-known", **options)(bound)
    job(name="declared-base", base=Base, database="main")(work)
    job(name="declared-tags", tags=["a", "b"])(work)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (functools.partial(work, 1), "only a function can be a job; options are given by name: @job(name=…)"),
        ("my_name", "@job 'my_name': only a function can be a job"),
        (lambda: None, "@job: a lambda has no name; give it one: job(lambda: …, name=…)"),
        (Context, "a class becomes a job by deriving from jobworker.Job"),
        (job(work, name="declared-once"), "@job: this is a job, or a task of Celery, already"),
    ],
)
def test_non_function_rejected_as_job(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        job(value)
    assert message in str(caught.value)


def test_generator_rejected_as_job() -> None:
    def rows() -> Any:
        yield 1

    with pytest.raises(ConfigurationError, match="@job rows: a function with `yield` does nothing when it is called"):
        job(rows)


def test_positional_only_parameters_rejected() -> None:
    def divide(left: int, right: int, /) -> float:
        return left / right

    with pytest.raises(ConfigurationError, match=r"left, right must not be positional-only: take out the /"):
        job(divide)


def test_scheduled_job_without_default_rejected() -> None:
    def nightly(month: str, context: Context) -> str:
        return month

    with pytest.raises(ConfigurationError, match=r"/defaults/month: month \(string\) is required"):
        job(schedule={"kind": "interval", "every": 5})(nightly)


def hidden(context: "HiddenContext", price: "Decimal", count: "int" = 1) -> str:
    return f"{context.job} {count}"


def test_unresolvable_annotations_give_type_any() -> None:
    accepted = parameters.from_signature(hidden, (Context,))
    # The class has another name here, so the context cannot be distinguished from the caller's parameters.
    assert [(parameter.name, parameter.type) for parameter in accepted] == [
        ("context", "any"),
        ("price", "any"),
        ("count", "integer"),
    ]


def late(context: "Context", price: "Decimal") -> str:
    return context.job


def test_unresolvable_context_annotation_matched_by_name() -> None:
    names = {name: value for name, value in vars(parameters).items() if name == "Context"}
    assert not names
    late.__globals__.pop("Context")
    try:
        assert [parameter.name for parameter in parameters.from_signature(late, (_CONTEXT,))] == ["price"]
    finally:
        late.__globals__["Context"] = _CONTEXT


_CONTEXT = Context


class _Export(Job, abstract=True):
    """An abstract base class, which is not a job."""


def test_job_class_options_rejected_like_function_options() -> None:
    with pytest.raises(ConfigurationError, match="@job Wrong: /tags: tags must be a list of texts"):

        class Wrong(_Export):
            tags = "abc"

            def run(self) -> None:
                """Do nothing."""
