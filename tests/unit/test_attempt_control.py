"""Control slots: cancellations, limits and extensions reach their attempt and no later attempt."""

import os

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from jobworker.worker.control.slots import ControlSlot, ControlTable


@pytest.fixture
def control_table() -> ControlTable:
    """A control table as the third process of a pool uses it."""
    table = ControlTable(slots=4)
    table.bind_process(2)
    return table


def _acquire(control_table: ControlTable, token: str) -> ControlSlot:
    slot = control_table.acquire(token)
    assert isinstance(slot, ControlSlot)
    return slot


def test_cancellation_reaches_only_its_attempt(control_table: ControlTable) -> None:
    slot = _acquire(control_table, "17")
    heard = [slot.cancelled]
    control_table.mark_cancelled("17", 2)
    heard.append(slot.cancelled)
    slot.release()
    assert [*heard, _acquire(control_table, "18").cancelled, slot.cancelled] == [False, True, False, True]


def test_late_cancellation_and_limit_ignored(control_table: ControlTable) -> None:
    _acquire(control_table, "17").release()
    slot = _acquire(control_table, "18")
    control_table.mark_cancelled("17", 2)
    control_table.mark_timed_out("17", 2, 1.0)
    control_table.on_soft_limit()
    assert not slot.cancelled
    assert slot.limit_passed is None


def test_extensions_add_up_and_end_with_their_attempt(control_table: ControlTable) -> None:
    slot = _acquire(control_table, "17")
    slot.extend(1.5)
    slot.extend(2)
    assert control_table.get_extension("17", 2) == 3.5
    slot.release()
    assert control_table.get_extension("17", 2) == 3.5, "while its hooks run its hard limit is kept"
    later = _acquire(control_table, "18")
    slot.extend(100)
    assert (control_table.get_extension("17", 2), control_table.get_extension("18", 2)) == (0.0, 0.0)
    later.extend(1)
    assert control_table.get_extension("18", 2) == 1.0


def test_soft_limit_raises_only_while_job_runs(control_table: ControlTable) -> None:
    slot = _acquire(control_table, "17")
    control_table.on_soft_limit()
    control_table.mark_timed_out("17", 2, 2.5)
    with pytest.raises(SoftTimeLimitExceeded, match=r"the soft time limit of 2\.5 s passed"):
        control_table.on_soft_limit()
    assert slot.limit_passed == 2.5
    slot.release()
    control_table.on_soft_limit()


def test_slots_of_two_processes_are_independent(control_table: ControlTable) -> None:
    first = _acquire(control_table, "17")
    control_table.bind_process(3)
    second = _acquire(control_table, "18")
    control_table.mark_cancelled("18", 3)
    second.extend(5)
    assert (first.cancelled, second.cancelled) == (False, True)
    assert (control_table.get_extension("17", 2), control_table.get_extension("18", 3)) == (0.0, 5.0)


def test_control_table_shared_between_processes(control_table: ControlTable) -> None:
    control_table.mark_cancelled("17", 2)
    child = os.fork()
    if child == 0:
        slot = _acquire(control_table, "17")
        slot.extend(7)
        os._exit(0 if slot.cancelled else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert control_table.get_extension("17", 2) == 7.0


@pytest.mark.parametrize("token", ["1", "18446744073709551615"[:16], "ffffffffffffffff"])
def test_token_of_any_length_accepted(control_table: ControlTable, token: str) -> None:
    slot = _acquire(control_table, token)
    control_table.mark_cancelled(token, 2)
    assert slot.cancelled


def test_slots_in_same_process_found_by_token() -> None:
    control_table = ControlTable(slots=1)
    first, second = control_table.acquire("17"), control_table.acquire("18")
    control_table.mark_cancelled("18", None)
    assert (first.cancelled, second.cancelled) == (False, True)
    first.extend(5)
    first.release()
    control_table.mark_cancelled("17", None)
    assert not first.cancelled
