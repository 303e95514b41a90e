"""Output of commands: untrusted text cannot add lines of its own, and the names in JSON are stable."""

import dataclasses
import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from jobworker.cli import dead_letters, executions, formatting, schedules
from jobworker.domain.executions.comparison import Difference
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.schedules.schedule import ScheduleOwner
from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.services.schedules.preview import PreviewResult, ScheduleComparison
from jobworker.services.schedules.simulation import SimulatedOccurrence
from jobworker.services.schedules.sync import SyncChange
from jobworker.services.schedules.upcoming import ExpectedOccurrence
from jobworker.store.executions.dead_letters import DeadLetterGroup
from jobworker.store.executions.timeline import LogRow

_NOW = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
_FORGED = "first\n12:00:00   CRITICAL forged \x1b[8m\u2028"
_IN_ONE_LINE = r"first\n12:00:00   CRITICAL forged \x1b[8m\u2028"
_INDENTED = "first\n    12:00:00   CRITICAL forged " + r"\x1b[8m\u2028"


def _make_row(**more: Any) -> Any:
    return SimpleNamespace(
        id="one", job="any", state=ExecutionState.FAILED, created_at=_NOW, finished_at=_NOW, fingerprint="f",
        reason=None, result_file=None, error={"type": "ValueError", "message": _FORGED}, **more,
    )  # fmt: skip


def test_list_rows_escape_line_breaks() -> None:
    group: Any = SimpleNamespace(count=2, fingerprint="f", first_seen=_NOW, last_seen=_NOW, example=_make_row())
    paused = SimpleNamespace(
        name="nightly", job="any", owner=ScheduleOwner.API, schedule=SimpleNamespace(zone="UTC"), paused_at=_NOW,
        paused_by="cli", paused_until=None, pause_note=_FORGED,
    )  # fmt: skip
    status: Any = SimpleNamespace(row=paused, status=ScheduleStatus.PAUSED, next_at=None, overdue=False)
    for line in (
        executions._format_execution(_make_row()),
        dead_letters._format_dead_letter(_make_row()),
        dead_letters._format_group(group),
        schedules._format_schedule(status),
    ):
        assert _IN_ONE_LINE in line


def test_multiline_log_progress_and_error_texts_indented(capsys: pytest.CaptureFixture[str]) -> None:
    assert formatting.format_log_line(LogRow("1", 1, _NOW, "INFO", "jobs.any", _FORGED)).endswith(f"INFO {_INDENTED}")
    assert formatting._format_progress({"done": 1, "message": _FORGED}) == f"1 {_INDENTED}"

    assert formatting.print_outcome(_make_row()) == formatting.EXIT_NOT_SUCCEEDED
    assert capsys.readouterr().err.endswith(f": ValueError: {_INDENTED}\n")


@pytest.mark.parametrize(
    ("printed", "names"),
    [
        (SyncChange, "step kind name place reason differences next warnings"),
        (PreviewResult, "schedule in_words warnings moments compared"),
        (ScheduleComparison, "row fields comes goes until"),
        (ExpectedOccurrence, "at local outcome reason notes"),
        (SimulatedOccurrence, "schedule scheduled_for outcome reason settled_at state started_at ended_at"),
        (DeadLetterGroup, "fingerprint count first_seen last_seen example"),
        (Difference, "part pointer change before now"),
    ],
)
def test_names_in_json_output_are_stable(printed: Any, names: str) -> None:
    assert [field.name for field in dataclasses.fields(printed)] == names.split()


def test_json_output_escapes_control_characters() -> None:
    assert formatting.format_json({"flag": "\U000e0067\x7f"}) == r'{"flag":"\udb40\udc67\u007f"}'
