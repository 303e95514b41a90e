"""Each problem is reported once, and what is remembered of them is bounded."""

from jobworker.telemetry.once import OncePerKey


def test_a_problem_is_new_once_and_again_when_it_changes() -> None:
    once = OncePerKey()
    assert once.first("schedule s", "no rule")
    assert not once.first("schedule s", "no rule")
    assert once.first("schedule s", "no zone")
    assert once.problems() == {"schedule s": "no zone"}


def test_what_is_forgotten_is_new_again() -> None:
    once = OncePerKey()
    once.first("a")
    once.forget("a")
    once.forget("never there")
    assert once.problems() == {}
    assert once.first("a")


def test_the_first_reported_makes_room_beyond_the_limit() -> None:
    once = OncePerKey(limit=2)
    assert [once.first(key) for key in "abc"] == [True, True, True]
    assert list(once.problems()) == ["b", "c"]
