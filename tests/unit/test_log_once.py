"""Deduplication of reported problems, bounded in size."""

from jobworker.telemetry.log_once import ProblemDeduplicator


def test_problem_is_new_once_and_again_when_changed() -> None:
    once = ProblemDeduplicator()
    assert once.add("schedule s", "no rule")
    assert not once.add("schedule s", "no rule")
    assert once.add("schedule s", "no zone")
    assert once.get_problems() == {"schedule s": "no zone"}


def test_forgotten_problem_is_new_again() -> None:
    once = ProblemDeduplicator()
    once.add("a")
    once.forget("a")
    once.forget("never there")
    assert once.get_problems() == {}
    assert once.add("a")


def test_oldest_problem_dropped_beyond_limit() -> None:
    once = ProblemDeduplicator(limit=2)
    assert [once.add(key) for key in "abc"] == [True, True, True]
    assert list(once.get_problems()) == ["b", "c"]
