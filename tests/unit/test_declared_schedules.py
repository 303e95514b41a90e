"""Declarations with `schedule(...)` in user modules: their values, refusals and import cost."""

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobworker import business_day, cron, daily, every, monthly, once, rrule, schedule, weekly
from jobworker.declare import declarations
from jobworker.declare.rules import RuleJson
from jobworker.domain.errors import ConfigurationError
from jobworker.domain.schedules.rules import rule_parser
from jobworker.domain.schedules.schedule import Schedule, parse

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function that writes modules of the package `planned` in the current folder: `write(nightly="schedule(…)")`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "planned").mkdir()

    def put(**modules: str) -> None:
        for name, code in modules.items():
            (tmp_path / "planned" / f"{name}.py").write_text(f"from jobworker import *\n{code}\n")

    put(__init__="")
    return put


UTC, CET = dt.UTC, dt.timezone(dt.timedelta(hours=1))


@pytest.mark.parametrize(
    ("declared", "described"),
    [
        (once(dt.datetime(2030, 1, 31, 12, tzinfo=CET)), {"kind": "once", "at": "2030-01-31T12:00:00+01:00"}),
        (every(dt.timedelta(minutes=5)), {"kind": "interval", "every": 300}),
        (
            every("PT5M", anchor="2026-01-01T00:00:00Z"),
            {"kind": "interval", "every": 300, "anchor": "2026-01-01T00:00:00Z"},
        ),
        (daily(dt.time(2)), {"kind": "daily", "time": "02:00"}),
        (daily("02:00:30"), {"kind": "daily", "time": "02:00:30"}),
        (weekly("friday", "17:00"), {"kind": "weekly", "days": ["friday"], "time": "17:00"}),
        (weekly({"monday", "friday"}, "17:00"), {"kind": "weekly", "days": ["friday", "monday"], "time": "17:00"}),
        (monthly("last", "18:00"), {"kind": "monthly", "day": "last", "time": "18:00"}),
        (
            business_day(-1, "18:00", roll="preceding"),
            {"kind": "business_day", "n": -1, "time": "18:00", "roll": "preceding"},
        ),
        (cron("*/15 8-18 * * 1-5"), {"kind": "cron", "expression": "*/15 8-18 * * 1-5"}),
        (
            rrule("FREQ=WEEKLY", start=dt.datetime.fromisoformat("2026-01-05T00:00")),
            {"kind": "rrule", "expression": "FREQ=WEEKLY", "start": "2026-01-05T00:00"},
        ),
    ],
)
def test_declared_rule_equals_api_rule(declared: RuleJson, described: RuleJson) -> None:
    assert rule_parser.parse(declared) == rule_parser.parse(described)


def test_declared_schedule_equals_api_schedule() -> None:
    declared = schedule(
        "month-close",
        job="close_month",
        rule=business_day(10, dt.time(18), roll="preceding"),
        zone="Europe/Berlin",
        calendar="DE",
        start=dt.datetime(2026, 1, 1, tzinfo=UTC),
        jitter=dt.timedelta(minutes=2),
        misfire={"policy": "catch_up", "grace": dt.timedelta(hours=1), "max": 3},
        parameters={"since": dt.date(2026, 1, 1), "kinds": ("a", "b")},
    )
    assert declared == parse(
        {
            "name": "month-close",
            "job": "close_month",
            "rule": {"kind": "business_day", "n": 10, "time": "18:00", "roll": "preceding"},
            "zone": "Europe/Berlin",
            "calendar": "DE",
            "start": "2026-01-01T00:00:00Z",
            "jitter": 120,
            "misfire": {"policy": "catch_up", "grace": 3600, "max": 3},
            "parameters": {"since": "2026-01-01", "kinds": ["a", "b"]},
        }
    )


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        (
            "schedule('s', job='j', rule=daily('25:00'))",
            ["planned/nightly.py:2: schedule 's': /rule/time: ", '"06:00"'],
        ),
        (
            "schedule('s', job='j', rule='5 0 * * *')",
            ["/rule: rule is what a function makes: cron('5 0 * * *'), or daily"],
        ),
        ("schedule('s', job='j')", ["planned/nightly.py:2: schedule 's': /rule: rule is required"]),
        (
            "\nschedule(\n    's', job='j', rule=daily('06:00'), zone='Mars')",
            ["planned/nightly.py:3: ", "/zone: 'Mars'"],
        ),
        ("schedule('s', jop='j', rule=daily('06:00'))", ["/job: job is required", "/jop: jop is unknown"]),
        ("schedule('s', job='j', rule=cron('*/0 * * * *'), priority=10)", ["/rule/expression: ", "/priority: "]),
        ("schedule('s', job='j', rule=daily('06:00'), parameters={'a': object()})", ["/parameters: ", "object"]),
        ("schedule('s', job='j', rule=daily('06:00'), parameters={'a': float('nan')})", ["/parameters: "]),
        ("schedule('a b', job='j', rule=daily('06:00'))", ["/name: name must be"]),
    ],
)
def test_invalid_declaration_reported_with_file_and_line(write: Write, code: str, messages: list[str]) -> None:
    write(nightly=code)
    [broken] = declarations.load_declarations("planned").broken_modules
    assert broken.module == "planned.nightly"
    for text in messages:
        assert text in broken.traceback.splitlines()[-1]


def test_duplicate_schedule_name_rejected_with_first_place(write: Write) -> None:
    write(one="schedule('s', job='j', rule=daily('06:00'))", two="schedule('s', job='k', rule=daily('07:00'))")
    loaded = declarations.load_declarations("planned")
    assert loaded.schedules["s"].place == "planned/one.py:2"
    assert "planned/two.py:2: schedule s is declared already, at planned/one.py:2" in loaded.broken_modules[0].traceback


def test_repeated_line_with_duplicate_name_rejected(write: Write) -> None:
    write(
        one="def declare(name):\n    schedule(name, job='j', rule=daily('06:00'))\n"
        "declare('a')\ndeclare('b')\ndeclare('b')"
    )
    loaded = declarations.load_declarations("planned")
    assert list(loaded.schedules) == ["a", "b"]
    assert "schedule b is declared twice by the same line" in loaded.broken_modules[0].traceback


def test_repeated_load_returns_equal_declarations(write: Write) -> None:
    write(one="schedule('s', job='j', rule=daily('06:00'))")
    sys.modules.pop("planned", None)
    first = declarations.load_declarations("planned")
    assert "planned" not in sys.modules
    assert declarations.load_declarations("planned").schedules == first.schedules
    write(one="schedule('s', job='j', rule=daily('06:00:01'))")
    assert declarations.load_declarations("planned").schedules != first.schedules


def test_imported_module_unchanged_by_load(write: Write) -> None:
    write(one="made = schedule('s', job='j', rule=daily('06:00'))")
    import planned.one  # type: ignore[import-not-found]

    before = planned.one
    loaded = declarations.load_declarations("planned")
    assert sys.modules["planned.one"] is before
    assert isinstance(before.made, Schedule)
    assert loaded.schedules["s"].value == before.made
    assert loaded.schedules["s"].value is not before.made


def test_stale_bytecode_ignored_by_load(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for hour in ("02", "03"):
        write(nightly=f"schedule('s', job='j', rule=daily('{hour}:00'))")
        # The file changes within one second and keeps its length.
        os.utime(tmp_path / "planned" / "nightly.py", (1_800_000_000, 1_800_000_000))
        assert declarations.load_declarations("planned").schedules["s"].value.rule == rule_parser.parse(
            daily(f"{hour}:00")
        )


def test_missing_schedules_package_rejected() -> None:
    with pytest.raises(ConfigurationError, match=r"no package 'nowhere' with schedules here.*JOBWORKER_SCHEDULES"):
        declarations.load_declarations("nowhere")


@pytest.mark.parametrize(
    ("statement", "kept_out"),
    [
        ("from jobworker import schedule, daily", ["celery", "sqlalchemy", "flask", "holidays"]),
        (
            "from jobworker import job, Context",
            ["jobworker.declare.declarations", "jobworker.declare.rules", "sqlalchemy"],
        ),
    ],
)
def test_public_names_do_not_import_unrelated_packages(statement: str, kept_out: list[str]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {kept_out} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
