"""Jobs that are classes, as far as they are declared."""

import pytest

from jobworker import Context, Job
from jobworker.domain.errors import ConfigurationError
from jobworker.domain.jobs import parameters


class Base(Job, abstract=True):
    """What some jobs share."""

    queue = "background"
    max_retries = 7


class Sends(Base):
    """Send a mail."""

    name = "sends-mail"
    time_limit = 60

    def run(self, context: Context, to: str, urgent: bool = False, **headers: str) -> str:
        """Not shown: the class has a text of its own."""
        return f"{self.parameters}"


class Derived(Sends):  # noqa: D101
    def run(self) -> str:  # type: ignore[override]
        """Do nothing."""
        return "nothing"


def test_options_are_inherited_and_the_name_is_not() -> None:
    assert (Sends.task.name, Derived.task.name) == ("sends-mail", "Derived")
    for made in (Sends, Derived):
        assert made.task.job_options.queue == "background"
        assert (made.task.max_retries, made.task.time_limit, made.task.job_class) == (7, 60, made)
    assert (Sends.task.run.__doc__, Derived.task.run.__doc__) == ("Send a mail.", "Do nothing.")


def test_the_parameters_are_those_of_run() -> None:
    found = parameters.from_signature(Sends.task.run, injected_types=(Context,))
    assert [each.name for each in found] == ["to", "urgent", "**"]


def test_a_class_is_tried_as_a_function() -> None:
    assert Derived().run() == Derived.task() == "nothing"


def test_there_is_no_context_where_nothing_runs() -> None:
    with pytest.raises(LookupError):
        _ = Derived().context


def test_a_class_without_work_is_no_job() -> None:
    with pytest.raises(ConfigurationError, match=r"job Lazy: a class that is a job needs a method run\(\)"):
        type("Lazy", (Job,), {})


def test_options_are_checked_as_those_of_a_function() -> None:
    with pytest.raises(ConfigurationError, match="Urgent: /priority: priority must be 0 to 9"):
        type("Urgent", (Job,), {"priority": 11, "run": lambda self: None})
