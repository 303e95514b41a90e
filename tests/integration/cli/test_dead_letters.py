"""`jobworker dead-letters …` and `jobworker executions cancel`, on a real database."""

import json

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.bulk import actions
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from tests.integration.cli.conftest import CommandRunner, StateReporter

_ERROR = {"type": "OSError", "message": "disk full", "traceback": None}


def _list_rows(database: Database) -> dict[str, ExecutionRow]:
    with database.read() as connection:
        return {row.id: row for row in executions.list_page(connection, ExecutionFilters(), 200).items}


def _create_dead_letter(run: CommandRunner, report: StateReporter, *arguments: str) -> str:
    execution = run("submit", "clean", "days=1", *arguments).stdout.strip()
    report(execution, ExecutionState.FAILED, error=_ERROR)
    return execution


def test_dead_letters_are_listed_and_counted(run: CommandRunner, report: StateReporter) -> None:
    first, second = _create_dead_letter(run, report), _create_dead_letter(run, report, "--queue", "background")

    lines = run("dead-letters", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [second, first]
    assert all("clean: OSError: disk full" in line for line in lines)
    assert run("dead-letters", "list", "--queue", "background").stdout.split()[0] == second
    [shown] = [json.loads(line) for line in run("dead-letters", "list", "--limit", "1", "--json").stdout.splitlines()]
    assert (shown["id"], shown["cause"]) == (second, "raised")
    [group] = run("dead-letters", "groups").stdout.splitlines()
    assert group.split()[:2] == ["2", shown["fingerprint"]]
    assert json.loads(run("dead-letters", "groups", "--json").stdout)["count"] == 2


def test_redrive_continues_until_no_dead_letter_is_left(
    run: CommandRunner, report: StateReporter, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = [_create_dead_letter(run, report) for _ in range(3)]
    assert run("dead-letters", "redrive", "--job", "clean", "--dry-run").stdout == "3 would be redriven\n"
    monkeypatch.setattr(actions.Selection.__init__, "__kwdefaults__", {**_get_selection_defaults(), "limit": 2})

    done = run("dead-letters", "redrive", "--job", "clean", "--patch", '{"days": 7}', "--note", "larger disk")

    assert (done.exit_code, done.stdout) == (0, "3 redriven\n")
    rows = _list_rows(sqlite_database)
    assert {rows[key].dead_letter for key in letters} == {"redriven"}
    assert {rows[key].dead_letter_note for key in letters} == {"larger disk"}
    reruns = [row for row in rows.values() if row.rerun_of]
    assert sorted(row.rerun_of or "" for row in reruns) == letters
    assert {row.parameters["days"] for row in reruns} == {7}
    assert all(row.created_by.startswith("cli") for row in reruns)


def _get_selection_defaults() -> dict[str, object]:
    selection = actions.Selection()
    return {name: getattr(selection, name) for name in actions.Selection.__dataclass_fields__}


def test_redrive_prints_dead_letters_that_cannot_be_redriven(run: CommandRunner, report: StateReporter) -> None:
    letter = _create_dead_letter(run, report)

    done = run("dead-letters", "redrive", letter, "--patch", '{"days": "many"}')

    assert (done.exit_code, done.stdout) == (1, "0 redriven, 1 left as they are\n")
    assert done.stderr == f"{letter}: days must be of type integer, not string\n"


def test_discard_and_cancel_print_their_counts(
    run: CommandRunner, report: StateReporter, sqlite_database: Database
) -> None:
    letter = _create_dead_letter(run, report)
    later = run("submit", "clean", "days=1", "--delay", "60", "--expires", "30").stdout.strip()

    assert run("dead-letters", "discard", letter, "--note", "a test").stdout == "1 discarded\n"
    assert run("executions", "cancel", "--job", "clean", "--dry-run").stdout == "1 would be cancelled\n"
    assert run("executions", "cancel", "--state", "scheduled").stdout == "1 cancelled\n"
    rows = _list_rows(sqlite_database)
    assert (rows[letter].dead_letter, rows[later].state) == ("discarded", ExecutionState.CANCELLED)
    expires_at = rows[later].expires_at
    assert expires_at is not None
    assert (expires_at - rows[later].due_at).total_seconds() == 30
    done = run("executions", "cancel", letter)
    assert (done.exit_code, done.stderr) == (1, f"{letter}: execution {letter} has ended already\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["dead-letters", "redrive"], "give ids or a filter"),
        (["dead-letters", "discard"], "give ids or a filter"),
        (["executions", "cancel"], "give ids or a filter"),
        (["executions", "cancel", "nonsense"], "ids must hold ids"),
        (["executions", "cancel", "--all", "--job", "x"], "give one of filter, all"),
        (["executions", "--job", "x", "cancel", "--all"], "put options after cancel"),
        (["dead-letters", "redrive", "--all", "--patch", "{"], "--patch is not JSON"),
        (["dead-letters", "redrive", "--all", "--patch", "[]"], "--patch must be an object"),
        (["dead-letters", "redrive", "--all", "--rate", "0"], "rate must be"),
        (["executions", "cancel", "--state", "Failed"], "is not one of"),
    ],
)
def test_ambiguous_selection_is_rejected(run: CommandRunner, arguments: list[str], complaint: str) -> None:
    done = run(*arguments)

    assert done.exit_code == 2
    assert complaint in done.stderr
