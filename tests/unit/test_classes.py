"""Declarations of jobs that are classes."""

import pytest

from jobworker import Context, Job
from jobworker.domain.errors import ConfigurationError
from jobworker.domain.jobs import parameters


class Base(Job, abstract=True):
    """Options that several jobs share."""

    queue = "background"
    max_retries = 7


class SendingJob(Base):
    """Send a mail."""

    name = "sends-mail"
    time_limit = 60

    def run(self, context: Context, to: str, urgent: bool = False, **headers: str) -> str:
        """Do nothing (text not used: the class has its own docstring)."""
        return f"{self.parameters}"


class Derived(SendingJob):  # noqa: D101
    def run(self) -> str:  # type: ignore[override]
        """Do nothing."""
        return "nothing"


def test_job_class_inherits_options_but_not_name() -> None:
    assert (SendingJob.task.name, Derived.task.name) == ("sends-mail", "Derived")
    for job_class in (SendingJob, Derived):
        assert job_class.task.job_options.queue == "background"
        assert (job_class.task.max_retries, job_class.task.time_limit, job_class.task.job_class) == (7, 60, job_class)
    assert (SendingJob.task.run.__doc__, Derived.task.run.__doc__) == ("Send a mail.", "Do nothing.")


def test_job_class_parameters_come_from_run() -> None:
    accepted = parameters.from_signature(SendingJob.task.run, injected_types=(Context,))
    assert [parameter.name for parameter in accepted] == ["to", "urgent", "**"]


def test_job_class_callable_as_function() -> None:
    assert Derived().run() == Derived.task() == "nothing"


def test_context_outside_attempt_raises_lookup_error() -> None:
    with pytest.raises(LookupError):
        _ = Derived().context


def test_job_class_without_run_rejected() -> None:
    with pytest.raises(ConfigurationError, match=r"job Lazy: a class that is a job needs a method run\(\)"):
        type("Lazy", (Job,), {})


def test_job_class_options_validated() -> None:
    with pytest.raises(ConfigurationError, match="Urgent: /priority: priority must be 0 to 9"):
        type("Urgent", (Job,), {"priority": 11, "run": lambda self: None})
