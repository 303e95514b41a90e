"""`jobworker schedules …`, on a real database."""

import functools
import json
from pathlib import Path

import pytest

from jobworker.clock import SystemClock
from jobworker.services.schedules import schedules
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from tests.integration.cli.conftest import CommandRunner

_NIGHTLY = "schedule('nightly', job='clean', rule=daily('02:00'), zone='Europe/Berlin', parameters={'days': 90})"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder of the commands, with the package `nights`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nights").mkdir()
    return tmp_path


@pytest.fixture
def jobworker(run: CommandRunner, folder: Path) -> CommandRunner:
    """Runner of `jobworker …` in that folder."""
    return functools.partial(run, JOBWORKER_SCHEDULES="nights")


def write_schedules(folder: Path, *lines: str) -> None:
    text = "\n".join(["from jobworker import cron, daily, schedule", *lines, ""])
    (folder / "nights" / "__init__.py").write_text(text)


def test_plan_prints_the_difference_and_apply_writes_it(jobworker: CommandRunner, folder: Path) -> None:
    write_schedules(folder, _NIGHTLY)
    planned = jobworker("schedules", "plan")
    assert planned.exit_code == 0
    first, *moments = planned.stdout.splitlines()
    assert first == "+ schedule nightly created  (nights/__init__.py:2)"
    assert len(moments) == 3
    assert all(" 02:00:00 CE" in line and line.startswith("    next ") for line in moments)
    assert jobworker("schedules", "plan", "--exit-code").exit_code == 1
    assert jobworker("schedules", "list").stdout == ""

    assert jobworker("schedules", "apply").stdout == planned.stdout
    same = jobworker("schedules", "plan", "--exit-code")
    assert (same.exit_code, same.stdout) == (0, "no changes: the database matches the code\n")

    write_schedules(folder, _NIGHTLY.replace("02:00", "03:00").replace("90", "30"))
    assert jobworker("schedules", "plan").stdout.splitlines()[:3] == [
        "~ schedule nightly changed  (nights/__init__.py:2)",
        "    /parameters/days: 90 -> 30",
        '    /rule/time: "02:00" -> "03:00"',
    ]
    write_schedules(folder)
    [retired] = map(json.loads, jobworker("schedules", "plan", "--json").stdout.splitlines())
    assert (retired["step"], retired["name"], retired["place"]) == ("retired", "nightly", None)


def test_apply_prints_rejected_schedules(jobworker: CommandRunner, folder: Path) -> None:
    write_schedules(folder, _NIGHTLY, "schedule('wrong', job='clean', rule=daily('02:00'))")
    done = jobworker("schedules", "apply")
    assert done.exit_code == 1
    assert "! schedule wrong refused  (nights/__init__.py:3)" in done.stdout
    assert "    /parameters/days: " in done.stdout
    assert jobworker("schedules", "list").stdout.startswith("nightly  active ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("schedule('s', job='clean', rule=daily('26:00'))", "nights/__init__.py:2: schedule 's': /rule/time: "),
        (
            "schedule('s', job='clean', rule=daly('06:00'))",
            "nights/__init__.py:2: NameError: name 'daly' is not defined",
        ),
    ],
)
def test_plan_and_apply_report_unreadable_code_without_a_traceback(
    jobworker: CommandRunner, folder: Path, line: str, message: str
) -> None:
    write_schedules(folder, line)
    for command in ("plan", "apply"):
        done = jobworker("schedules", command)
        assert done.exit_code == 2
        assert message in done.stderr.splitlines()[0]
        assert done.stderr.count("nights/__init__.py:2") == 1
        assert "Traceback" not in done.stderr


def test_plan_without_the_package_reports_it(jobworker: CommandRunner) -> None:
    done = jobworker("schedules", "plan", JOBWORKER_SCHEDULES="nowhere")
    assert done.exit_code == 2
    assert "no package 'nowhere' with schedules here" in done.stderr


def test_list_and_show_print_schedules(jobworker: CommandRunner, folder: Path, sqlite_database: Database) -> None:
    write_schedules(folder, _NIGHTLY)
    jobworker("schedules", "apply")
    theirs = {
        "name": "theirs",
        "job": "clean",
        "rule": {"kind": "interval", "every": 60},
        "parameters": {"days": 1},
        "enabled": False,
    }
    schedules.create(sqlite_database, SystemClock(), theirs, "ann")

    first, second = jobworker("schedules", "list").stdout.splitlines()
    assert first.startswith("nightly  active     ")
    assert first.endswith("  job clean  (code)")
    assert second.startswith("theirs  disabled ")
    for options, names in (
        (["--owner", "api"], ["theirs"]),
        (["--state", "active"], ["nightly"]),
        (["--job", "other"], []),
        (["--overdue"], []),
        (["--limit", "1"], ["nightly"]),
    ):
        listed = jobworker("schedules", "list", "--json", *options).stdout.splitlines()
        assert [json.loads(line)["name"] for line in listed] == names

    line, words, *ahead = jobworker("schedules", "show", "nightly").stdout.splitlines()
    assert line == first
    assert words == "  every day at 02:00 (Europe/Berlin)"
    assert all(" 02:00:00 CE" in occurrence_line for occurrence_line in ahead[:5])
    assert json.loads("\n".join(ahead[5:]))["zone"] == "Europe/Berlin"
    assert json.loads(jobworker("schedules", "show", "nightly", "--json").stdout)["owner"] == "code"
    unknown = jobworker("schedules", "show", "nigthly")
    assert unknown.exit_code == 2
    assert "nightly" in unknown.stderr


def test_fire_creates_an_execution_unless_one_is_unfinished(
    jobworker: CommandRunner, folder: Path, sqlite_database: Database
) -> None:
    write_schedules(folder, _NIGHTLY)
    jobworker("schedules", "apply")
    execution = jobworker("schedules", "fire", "nightly").stdout.strip()
    with sqlite_database.read() as connection:
        row = executions.get(connection, execution)
    assert row is not None
    assert (row.job, row.parameters["days"], row.scheduled_for is None) == ("clean", 90, False)

    left_out = jobworker("schedules", "fire", "nightly")
    assert (left_out.exit_code, left_out.stdout) == (1, "")
    assert left_out.stderr == f"skipped_overlap: execution {execution} had not ended\n"
    assert jobworker("schedules", "fire", "nightly", "--overlap", "allow").exit_code == 0
    shown = jobworker("schedules", "show", "nightly").stdout
    assert shown.count("  fired  fired by hand by cli") == 2
    assert "  skipped_overlap  " in shown
    assert jobworker("schedules", "fire", "nobody").exit_code == 2


def test_pause_and_resume_change_the_state(jobworker: CommandRunner, folder: Path) -> None:
    write_schedules(folder, _NIGHTLY)
    jobworker("schedules", "apply")
    paused = jobworker("schedules", "pause", "nightly", "--note", "moving", "--until", "2099-01-01T12:00:00Z")
    assert paused.exit_code == 0, paused.stderr
    assert paused.stdout.startswith("nightly  paused ")
    assert "paused by cli" in paused.stdout
    assert " until Thu 2099-01-01 13:00:00 CET: moving  job clean  (code)" in paused.stdout
    assert jobworker("schedules", "list", "--state", "paused").stdout == paused.stdout
    past = jobworker("schedules", "pause", "nightly", "--until", "2020-01-01T12:00:00Z")
    assert (past.exit_code, "has passed" in past.stderr) == (2, True)
    resumed = jobworker("schedules", "resume", "nightly", "--on-resume", "fire_once")
    assert resumed.stdout.startswith("nightly  active ")
    assert jobworker("schedules", "resume", "nobody").exit_code == 2


def test_preview_prints_occurrences_of_an_unsaved_rule(jobworker: CommandRunner, folder: Path) -> None:
    write_schedules(folder, _NIGHTLY)
    jobworker("schedules", "apply")
    rule = '{"kind": "daily", "time": "02:30"}'
    span = ["--from", "2026-03-28T00:00:00Z", "--count", "2"]
    shown = jobworker("schedules", "preview", rule, "--zone", "Europe/Berlin", *span).stdout.splitlines()
    assert shown[0] == "every day at 02:30 (Europe/Berlin)"
    assert shown[1] == "  Sat 2026-03-28 02:30:00 CET"
    assert shown[2].startswith("  Sun 2026-03-29 03:30:00 CEST  ")

    changed = f'{{"rule": {rule}, "zone": "Europe/Berlin", "parameters": {{"days": 90}}}}'
    compared = jobworker("schedules", "preview", changed, "--saved", "nightly", *span).stdout
    assert '  /rule/time: "02:00" -> "02:30"\n' in compared
    assert "  + Sat 2026-03-28 02:30:00 CET\n" in compared
    assert "  - Sat 2026-03-28 02:00:00 CET\n" in compared
    preview = json.loads(jobworker("schedules", "preview", changed, "--json", *span).stdout)
    assert preview["in_words"] == shown[0]
    wrong = jobworker("schedules", "preview", '{"kind": "daily", "time": "26:00"}')
    assert wrong.exit_code == 2
    assert "time must be a time of day" in wrong.stderr


def test_simulate_prints_occurrences(jobworker: CommandRunner, folder: Path) -> None:
    write_schedules(folder, _NIGHTLY)
    jobworker("schedules", "apply")
    span = ["--from", "2026-03-28", "--to", "2026-03-30", "--zone", "Europe/Berlin"]
    done = jobworker("simulate", *span, "--outage", "01:00-04:00", "--duration", "PT10M")
    assert done.exit_code == 0, done.stderr
    first, second, closing = done.stdout.splitlines()
    assert first.startswith("Sat 2026-03-28 02:00:00 CET   nightly  fired")
    assert "runs 04:00:00 to 04:10:00; noticed at " in first
    assert second.startswith("Sun 2026-03-29 03:00:00 CEST  nightly  fired"), "the clocks skip 02:00"
    assert closing == "2 occurrences: 2 fired"

    write_schedules(folder, _NIGHTLY.replace("02:00", "00:30"))
    [line] = jobworker("simulate", *span, "--code", "--json", "--limit", "1").stdout.splitlines()
    assert json.loads(line)["scheduled_for"] == "2026-03-28T00:30:00+01:00"
    stopped = jobworker("simulate", *span, "--limit", "1")
    assert "stopped at 2026-03-29T01:00:00Z: more than 1 occurrences; see --limit" in stopped.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "tomorrow", "--to", "2026-03-30"], "'tomorrow' must be a date such as 2026-03-28"),
        (["--from", "2026-03-30", "--to", "2026-03-28"], "2026-03-28 must be later than 2026-03-30"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--outage", "night"], "must be times of each day such as"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--zone", "Mars"], "Mars is not an IANA time zone"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--duration", "long"], "long must be a number of seconds"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--duration=-3"], "-3 must not be negative"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--duration", "s=-3"], "s=-3 must not be negative"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--duration", "=3"], "=3 must look like NAME=SECONDS"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--duration", "s=3"], "there is no schedule 's'"),
        (["--from", "2026-03-28", "--to", "2026-03-30", "--schedule", "x"], "there is no schedule 'x'"),
    ],
)
def test_simulate_rejects_invalid_options(jobworker: CommandRunner, options: list[str], message: str) -> None:
    done = jobworker("simulate", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_simulate_code_needs_no_database(jobworker: CommandRunner, folder: Path) -> None:
    write_schedules(folder, _NIGHTLY)
    file = folder / "none" / "jobworker.db"
    span = ["--from", "2026-03-28", "--to", "2026-03-29"]
    none = {"JOBWORKER_DATABASE_URL": f"sqlite:///{file}"}
    done = jobworker("simulate", *span, "--code", **none)
    assert done.exit_code == 0, done.stderr
    assert "1 occurrences: 1 fired" in done.stdout
    assert "unknown jobs, assumed to accept every parameter: clean" in done.stdout
    assert f"without a database: there is no database {file} yet" in done.stderr
    refused = jobworker("simulate", *span, **none)
    assert (refused.exit_code, "run jobworker db upgrade" in refused.stderr) == (2, True)
    assert not file.parent.exists()
