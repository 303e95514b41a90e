"""Commands submit, executions, wait and db, on a real database."""

import contextlib
import json
import socket
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobworker.cli import formatting
from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.store.database.database import Database
from jobworker.store.executions import executions, log_lines, progress
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.log_lines import LogLine
from jobworker.store.executions.progress import ExecutionProgress
from tests.conftest import NOW
from tests.integration.cli.conftest import CommandRunner, StateReporter
from tests.servers import find_free_port


def _get_row(database: Database, execution: str) -> ExecutionRow:
    with database.read() as connection:
        row = executions.get(connection, execution)
    assert row is not None
    return row


def test_submit_prints_the_id_of_a_queued_execution(run: CommandRunner, sqlite_database: Database) -> None:
    done = run("submit", "clean", "days=90")

    assert done.exit_code == 0
    row = _get_row(sqlite_database, done.stdout.strip())
    assert (row.job, row.state, row.parameters) == ("clean", ExecutionState.QUEUED, {"days": 90})
    assert row.created_by.startswith("cli")


def test_submit_reports_a_locked_database_without_a_traceback(run: CommandRunner, sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        done = run("submit", "clean", "days=90")
    said = "error: another writer has kept the database locked for 2.0 s; nothing was changed: try again\n"
    assert (done.exit_code, done.stderr) == (2, said)


@pytest.mark.parametrize(
    ("pairs", "parameters"),
    [
        (["days=1", "dry_run=true", "ratio=0.25"], {"days": 1, "dry_run": True, "ratio": 0.25}),
        (["days=1", "label=12"], {"days": 1, "label": "12"}),
        (["days=1", "label=a=b"], {"days": 1, "label": "a=b"}),
        (["days=1", "label="], {"days": 1, "label": ""}),
        (["days=1", 'only=["a","b"]'], {"days": 1, "only": ["a", "b"]}),
        (["days=1", "only=null"], {"days": 1, "only": None}),
        (["--json", '{"days": 1, "label": "x"}', "days=2"], {"days": 2, "label": "x"}),
    ],
)
def test_submit_parses_values_by_parameter_type(
    run: CommandRunner, sqlite_database: Database, pairs: list[str], parameters: dict[str, Any]
) -> None:
    done = run("submit", "clean", *pairs)

    assert done.exit_code == 0, done.stderr
    assert _get_row(sqlite_database, done.stdout.strip()).parameters == parameters


def test_submit_passes_its_options_on(run: CommandRunner, sqlite_database: Database) -> None:
    options = ["--queue", "critical", "--priority", "9", "--correlation-id", "abc", "--delay", "PT1H"]
    row = _get_row(sqlite_database, run("submit", "clean", "days=1", *options).stdout.strip())

    assert (row.queue, row.priority, row.correlation_id, row.state) == ("critical", 9, "abc", ExecutionState.SCHEDULED)
    assert (row.due_at - row.created_at).total_seconds() == 3600


def test_submit_after_option_adds_dependencies(run: CommandRunner, sqlite_database: Database) -> None:
    first, second = (run("submit", "clean", "days=1").stdout.strip() for _ in range(2))
    row = _get_row(
        sqlite_database, run("submit", "clean", "days=1", "--after", first, "--after", second).stdout.strip()
    )
    assert (row.state, row.waiting_for) == (ExecutionState.WAITING, 2)
    refused = run("submit", "clean", "days=1", "--after", "x")
    assert refused.exit_code == 2
    assert "execution must be the id of an execution, not 'x'" in refused.stderr


def test_submit_due_at_option_sets_the_due_time(run: CommandRunner, sqlite_database: Database) -> None:
    done = run("submit", "clean", "days=1", "--due-at", "2031-05-01T12:00:00+02:00")

    assert _get_row(sqlite_database, done.stdout.strip()).due_at.isoformat() == "2031-05-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["clear"], "there is no job 'clear'; did you mean clean?"),
        (["clean"], "days (integer) is required"),
        (["clean", "days=many"], "days must be of type integer, not string"),
        (["clean", "days=NaN"], "days must be of type integer"),
        (["clean", "days=1", "ratio=NaN"], "ratio must be of type number"),
        (["clean", "days=1", "hours=2"], "hours is not a parameter of this task"),
        (["clean", "days"], "days must look like name=value"),
        (["clean", "=1"], "=1 must look like name=value"),
        (["clean", "--json", "{"], "--json is not JSON"),
        (["clean", "--json", "[1]"], "--json must be an object"),
        (["clean", "--json", '{"days": 1, "days": 2}'], '--json contains the key "days" twice in one object'),
        (
            ["clean", 'days={"a": "\\u0000"}'],
            "days contains text with the character NUL (\\u0000); leave it out (at /a)",
        ),
        (["clean", "days=18446744073709551616"], "days contains an integer that does not fit into 64 bits"),
        (["clean", "label=\udcff"], "the argument label=\\xff is not UTF-8"),
        (["clean", "days=1", "--queue", "\udcff"], "the argument \\xff is not UTF-8"),
        (["clean", "days=1", "--priority", "10"], "priority must be 0 to 9"),
        (["clean", "days=1", "--queue", "A B"], "queue must begin with"),
        (["clean", "days=1", "--delay", "-1"], "delay must not be negative"),
        (["clean", "days=1", "--delay", "soon"], "soon must be a number of seconds or an ISO 8601 duration"),
        (["clean", "days=1", "--due-at", "2020-01-01T00:00:00Z"], "has passed"),
        (["clean", "days=1", "--due-at", "2031-01-01T00:00:00"], "needs an offset from UTC"),
        (["clean", "days=1", "--due-at", "tomorrow"], "must look like 2030-01-31T12:00:00Z"),
        (["clean", "days=1", "--due-at", "2031-01-01T00:00:00Z", "--delay", "1"], "not both"),
    ],
)
def test_invalid_submit_prints_the_problem_and_submits_nothing(
    run: CommandRunner, arguments: list[str], complaint: str
) -> None:
    done = run("submit", *arguments)

    assert done.exit_code == 2
    assert complaint in done.stderr
    assert done.stdout == ""
    assert run("executions").stdout == ""


def test_executions_lists_the_latest_first(run: CommandRunner, report: StateReporter) -> None:
    first, second, third = (run("submit", "clean", f"days={days}").stdout.strip() for days in (1, 2, 3))
    report(second, ExecutionState.FAILED, error={"type": "OSError", "message": "disk full", "traceback": ""})

    lines = run("executions").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [third, second, first]
    assert "Failed" in lines[1]
    assert "(disk full)" in lines[1]
    assert run("executions", "--limit", "1").stdout.split()[0] == third
    assert run("executions", "--state", "failed").stdout.split()[0] == second
    assert run("executions", "--job", "other").stdout == ""
    rows = [json.loads(line) for line in run("executions", "--json").stdout.splitlines()]
    assert [row["parameters"] for row in rows] == [{"days": 3}, {"days": 2}, {"days": 1}]


def test_wait_prints_the_result(run: CommandRunner, report: StateReporter) -> None:
    execution = run("submit", "clean", "days=1").stdout.strip()
    report(execution, ExecutionState.SUCCEEDED, result={"removed": 3})

    done = run("wait", execution)

    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"removed": 3}


def test_wait_prints_a_failure(run: CommandRunner, report: StateReporter) -> None:
    execution = run("submit", "clean", "days=1").stdout.strip()
    report(execution, ExecutionState.FAILED, error={"type": "OSError", "message": "disk full", "traceback": ""})

    done = run("wait", execution)

    assert done.exit_code == 1
    assert done.stderr == f"{execution} Failed: OSError: disk full\n"


def test_wait_exits_with_3_after_its_timeout(run: CommandRunner) -> None:
    execution = run("submit", "clean", "days=1", "--delay", "3600").stdout.strip()

    done = run("wait", execution, "--timeout", "0.1")

    assert done.exit_code == 3
    assert done.stderr.startswith(f"{execution} is Scheduled")


def test_wait_for_unknown_execution_is_an_error(run: CommandRunner) -> None:
    done = run("wait", "nonsense")

    assert done.exit_code == 2
    assert done.stderr.startswith("error: there is no execution 'nonsense'")


def test_follow_prints_the_whole_timeline(
    run: CommandRunner, report: StateReporter, sqlite_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    execution = run("submit", "clean", "days=1").stdout.strip()
    report(execution, ExecutionState.RUNNING, worker="w1", token="t")
    with sqlite_database.write() as connection:
        log_lines.insert(connection, [LogLine(execution, "1-1", 1, NOW, "INFO", "clean", "looking around")])
        said = {"done": 3, "total": 10, "message": "removing"}
        progress.update(connection, {execution: ExecutionProgress(ExecutionState.RUNNING, 1, said, None)})
    report(execution, ExecutionState.SUCCEEDED, result=["a"])

    assert formatting.follow_execution(sqlite_database, SystemClock(), execution) == 0

    output = capsys.readouterr().out
    parts = ["Queued by cli", "Running (attempt 1) by worker:w1", "3/10 removing", "INFO looking around", "Succeeded"]
    positions = [output.index(part) for part in parts]
    assert positions == sorted(positions)
    assert orjson.loads(output[output.rindex("[") :]) == ["a"]


def _print_state(database: Database, execution: str, *messages: str) -> None:
    lines = [
        LogLine(execution, log_lines.format_seq(f"{number}-0"), 1, NOW, "INFO", "clean", message)
        for number, message in enumerate(messages)
    ]
    with database.write() as connection:
        log_lines.insert(connection, lines)


def test_logs_prints_existing_lines_without_waiting(run: CommandRunner, sqlite_database: Database) -> None:
    execution = run("submit", "clean", "days=1").stdout.strip()
    messages = [f"line {number}" for number in range(1_203)]
    _print_state(sqlite_database, execution, *messages)
    done = run("logs", execution)
    assert done.exit_code == 0
    assert [line.partition(" INFO ")[2] for line in done.stdout.splitlines()] == messages


def test_logs_follow_prints_lines_until_the_end(
    run: CommandRunner, report: StateReporter, sqlite_database: Database
) -> None:
    execution = run("submit", "clean", "days=1").stdout.strip()
    _print_state(sqlite_database, execution, "before")

    def later() -> None:
        with sqlite_database.write() as connection:
            log_lines.insert(connection, [LogLine(execution, "9", 1, NOW, "INFO", "clean", "after")])
        report(execution, ExecutionState.FAILED)

    timer = threading.Timer(0.5, later)
    timer.start()
    done = run("logs", execution, "--follow")
    timer.join()
    assert [line.partition(" INFO ")[2] for line in done.stdout.splitlines()] == ["before", "after"]
    assert run("logs", "nonsense").exit_code == 2


def test_wait_prints_the_name_of_a_result_file(run: CommandRunner, report: StateReporter) -> None:
    execution = run("submit", "clean", "days=1").stdout.strip()
    file = {"name": "result-1.json", "size": 100_000, "sha256": "ab", "host": "far-away"}
    report(execution, ExecutionState.SUCCEEDED, result_file=file)
    done = run("wait", execution)
    assert (done.exit_code, done.stdout) == (0, "the result is in result-1.json (100,000 bytes) on far-away\n")


def test_db_upgrade_creates_the_tables_and_can_be_repeated(run: CommandRunner, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/jobworker.db"

    assert "upgraded from nothing" in run("db", "upgrade", JOBWORKER_DATABASE_URL=url).stdout
    assert "is up to date" in run("db", "upgrade", JOBWORKER_DATABASE_URL=url).stdout
    assert run("executions", JOBWORKER_DATABASE_URL=url).exit_code == 0


def test_db_upgrade_names_a_database_that_cannot_be_created(run: CommandRunner) -> None:
    done = run("db", "upgrade", JOBWORKER_DATABASE_URL="sqlite:////proc/none/x.db")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: the database /proc/none/x.db cannot be created: ")


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("JOBWORKER_DATABASE_URL", "mysql://x", "must start with sqlite:/// or postgresql+psycopg://"),
        ("JOBWORKER_DATABASE_URL", "sqlite:////proc/none/x.db", "there is no database /proc/none/x.db yet"),
        ("JOBWORKER_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/x", "cannot be used"),
        ("JOBWORKER_REDIS_URL", "tcp://x", "JOBWORKER_REDIS_URL=tcp://x is not a Redis URL"),
        ("JOBWORKER_FEED", "many", "JOBWORKER_FEED=many must be a number"),
    ],
)
def test_invalid_settings_are_an_error_without_traceback(
    run: CommandRunner, variable: str, value: str, complaint: str
) -> None:
    done = run("submit", "clean", "days=1", **{variable: value})

    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert "secret" not in done.stderr


def test_database_without_tables_error_names_the_upgrade_command(run: CommandRunner, tmp_path: Path) -> None:
    done = run("executions", JOBWORKER_DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")

    assert done.exit_code == 2
    assert "run jobworker db upgrade" in done.stderr


def test_web_requires_a_free_port(run: CommandRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run("web", JOBWORKER_BIND=f"127.0.0.1:{port}")

    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: port {port} on 127.0.0.1 is in use")


def test_web_requires_its_app(run: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [""])

    done = run("web", JOBWORKER_BIND=f"127.0.0.1:{find_free_port()}")

    assert done.exit_code == 2
    assert "there is no app.py here" in done.stderr


def test_web_requires_a_database_with_tables(run: CommandRunner, tmp_path: Path) -> None:
    where = {"JOBWORKER_DATABASE_URL": f"sqlite:///{tmp_path}/empty.db"}
    done = run("web", JOBWORKER_BIND=f"127.0.0.1:{find_free_port()}", **where)

    assert done.exit_code == 2
    assert "run jobworker db upgrade" in done.stderr


@pytest.mark.parametrize("command", ["up", "db upgrade", "web", "relay", "executions", "submit clean days=1", "doctor"])
def test_home_that_is_a_file_is_reported_in_one_line(run: CommandRunner, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    where = {"JOBWORKER_HOME": str(tmp_path / "file"), "JOBWORKER_BIND": f"127.0.0.1:{find_free_port()}"}
    done = run(*command.split(), **where, JOBWORKER_DATABASE_URL="", JOBWORKER_REDIS_URL="")

    [said] = [line for line in done.output.splitlines() if "JOBWORKER_HOME=" in line]
    assert f"JOBWORKER_HOME={tmp_path}/file cannot be used: there is a file in its place" in said
    assert done.exit_code == (1 if command == "doctor" else 2)
    assert "Traceback" not in done.output


def test_home_on_a_read_only_file_system_is_reported_in_one_line(run: CommandRunner) -> None:
    done = run("up", JOBWORKER_HOME="/sys")  # Not even root can create files there.

    assert done.exit_code == 2
    assert done.output.startswith("error: JOBWORKER_HOME=/sys cannot be used: ")
    assert len(done.output.splitlines()) == 1
