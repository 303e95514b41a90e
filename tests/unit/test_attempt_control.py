"""What is said at a seat reaches whom it is about, and nobody after them."""

import os

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from jobworker.worker.control.slots import ControlSlot, ControlTable


@pytest.fixture
def desk() -> ControlTable:
    """A desk, seen from the third process of a pool."""
    made = ControlTable(slots=4)
    made.bind_process(2)
    return made


def _acquire(desk: ControlTable, token: str) -> ControlSlot:
    seat = desk.acquire(token)
    assert isinstance(seat, ControlSlot)
    return seat


def test_a_cancellation_reaches_its_attempt_and_not_the_next(desk: ControlTable) -> None:
    seat = _acquire(desk, "17")
    heard = [seat.cancelled]
    desk.mark_cancelled("17", 2)
    heard.append(seat.cancelled)
    seat.release()
    assert [*heard, _acquire(desk, "18").cancelled, seat.cancelled] == [False, True, False, True]


def test_one_that_comes_too_late_reaches_nobody(desk: ControlTable) -> None:
    _acquire(desk, "17").release()
    seat = _acquire(desk, "18")
    desk.mark_cancelled("17", 2)
    desk.mark_timed_out("17", 2, 1.0)
    desk.on_soft_limit()
    assert not seat.cancelled
    assert seat.limit_passed is None


def test_extensions_add_up_and_end_with_their_attempt(desk: ControlTable) -> None:
    seat = _acquire(desk, "17")
    seat.extend(1.5)
    seat.extend(2)
    assert desk.get_extension("17", 2) == 3.5
    seat.release()
    assert desk.get_extension("17", 2) == 3.5, "while its hooks run its hard limit is kept"
    later = _acquire(desk, "18")
    seat.extend(100)
    assert (desk.get_extension("17", 2), desk.get_extension("18", 2)) == (0.0, 0.0)
    later.extend(1)
    assert desk.get_extension("18", 2) == 1.0


def test_a_soft_limit_strikes_while_the_job_runs_and_not_after(desk: ControlTable) -> None:
    seat = _acquire(desk, "17")
    desk.on_soft_limit()
    desk.mark_timed_out("17", 2, 2.5)
    with pytest.raises(SoftTimeLimitExceeded, match=r"the soft time limit of 2\.5 s passed"):
        desk.on_soft_limit()
    assert seat.limit_passed == 2.5
    seat.release()
    desk.on_soft_limit()


def test_two_seats_are_apart(desk: ControlTable) -> None:
    one = _acquire(desk, "17")
    desk.bind_process(3)
    other = _acquire(desk, "18")
    desk.mark_cancelled("18", 3)
    other.extend(5)
    assert (one.cancelled, other.cancelled) == (False, True)
    assert (desk.get_extension("17", 2), desk.get_extension("18", 3)) == (0.0, 5.0)


def test_what_is_said_in_one_process_is_heard_in_another(desk: ControlTable) -> None:
    desk.mark_cancelled("17", 2)
    child = os.fork()
    if child == 0:
        seat = _acquire(desk, "17")
        seat.extend(7)
        os._exit(0 if seat.cancelled else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert desk.get_extension("17", 2) == 7.0


@pytest.mark.parametrize("token", ["1", "18446744073709551615"[:16], "ffffffffffffffff"])
def test_every_token_has_room(desk: ControlTable, token: str) -> None:
    seat = _acquire(desk, token)
    desk.mark_cancelled(token, 2)
    assert seat.cancelled


def test_in_the_same_process_a_seat_is_found_by_its_token() -> None:
    desk = ControlTable(slots=1)
    one, other = desk.acquire("17"), desk.acquire("18")
    desk.mark_cancelled("18", None)
    assert (one.cancelled, other.cancelled) == (False, True)
    one.extend(5)
    one.release()
    desk.mark_cancelled("17", None)
    assert not one.cancelled
