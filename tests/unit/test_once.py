"""Each problem is reported once, and what is remembered of them is bounded."""

from jobworker.telemetry.once import ProblemDeduplicator


def test_a_problem_is_new_once_and_again_when_it_changes() -> None:
    once = ProblemDeduplicator()
    assert once.add("schedule s", "no rule")
    assert not once.add("schedule s", "no rule")
    assert once.add("schedule s", "no zone")
    assert once.get_problems() == {"schedule s": "no zone"}


def test_what_is_forgotten_is_new_again() -> None:
    once = ProblemDeduplicator()
    once.add("a")
    once.forget("a")
    once.forget("never there")
    assert once.get_problems() == {}
    assert once.add("a")


def test_the_first_reported_makes_room_beyond_the_limit() -> None:
    once = ProblemDeduplicator(limit=2)
    assert [once.add(key) for key in "abc"] == [True, True, True]
    assert list(once.get_problems()) == ["b", "c"]
