"""Fixture `simulate_schedules` in tests of a user project, run by a separate pytest."""

import ast
import tomllib

import pytest

from tests.docs.markdown import DOCS, ROOT, CodeBlock, list_code_blocks

pytest_plugins = ["pytester"]

_SCHEDULES = """
from jobworker import calendar, business_day, daily, schedule

calendar("office", closed=["2026-03-31"])
schedule("nightly", job="clean", rule=daily("02:30"), zone="Europe/Berlin", misfire={"policy": "skip"})
schedule("month-end", job="report", rule=business_day(-1, "18:00"), calendar="office", overlap="allow")
"""

_TESTS = """
import datetime as dt
import pytest


def told(occurrences):
    return [(each.schedule, each.scheduled_for.strftime("%dT%H:%M%z"), str(each.outcome)) for each in occurrences]


def test_business_day_of_the_package_fires(simulate_schedules):
    found = simulate_schedules("2026-03-28", "2026-04-01", names=["month-end"])
    assert told(found) == [("month-end", "30T18:00+0000", "fired")]


ONCE = [("2026-03-28T01:00", dt.datetime(2026, 3, 28, 4))]


@pytest.mark.parametrize("outage", [("01:00", "04:00"), "01:00-04:00", ONCE])
def test_outage_causes_misses(simulate_schedules, outage):
    given = {"names": ["nightly"], "outage": outage, "zone": "Europe/Berlin"}
    first, second = simulate_schedules("2026-03-28", "2026-03-30", **given)
    assert (str(first.outcome), first.started_at) == ("missed", None)
    assert str(second.outcome) == ("fired" if isinstance(outage, list) else "missed")


def test_duration_sets_the_end(simulate_schedules):
    for duration in (600, {"nightly": 600}):
        [only] = simulate_schedules(dt.date(2026, 3, 28), "2026-03-29", names=["nightly"], duration=duration)
        assert only.ended_at - only.started_at == dt.timedelta(minutes=10)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"end": "someday"}, "'someday' must be a date such as"),
        ({"limit": 1}, "more than 1 occurrences"),
        ({"names": ["nobody"]}, "nobody"),
        ({"outage": "night"}, "must be times of each day such as"),
    ],
)
def test_invalid_arguments_are_rejected(simulate_schedules, arguments, told):
    with pytest.raises(Exception, match=told):
        simulate_schedules("2026-03-28", **{"end": "2026-03-31", **arguments})
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Project with schedules in its own folder."""
    package = pytester.mkpydir("schedules")
    (package / "nightly.py").write_text(_SCHEDULES)
    return pytester


def run(project: pytest.Pytester) -> pytest.RunResult:
    # A separate process runs without the plugins and options of this repository's pytest.
    return project.runpytest_subprocess("-p", "jobworker.testing.plugin", "-q")


def test_simulate_schedules_fixture_works_in_user_tests(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    project.makepyfile(_TESTS)
    run(project).assert_outcomes(passed=9)


def test_unreadable_code_fails_the_test_with_its_place(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (project.path / "schedules" / "nightly.py").write_text(_SCHEDULES.replace("02:30", "26:30"))
    project.makepyfile("def test(simulate_schedules):\n    simulate_schedules('2026-03-28', '2026-03-29')")
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ConfigurationError: *schedules/nightly.py:5: schedule 'nightly': /rule/time: *"])


def test_unused_plugin_imports_neither_sqlalchemy_nor_celery(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    project.makepyfile(
        "import sys\n\ndef test():\n    assert not [name for name in ('sqlalchemy', 'celery') if name in sys.modules]"
    )
    run(project).assert_outcomes(passed=1)


def test_entry_point_is_the_plugin_and_testing_is_not_imported_elsewhere() -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert entries == {"jobworker.testing.plugin": "jobworker.testing.plugin"}
    for path in (ROOT / "jobworker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.partition(".")[0] != "pytest" or path.name == "plugin.py", path
                assert not node.module.startswith("jobworker.testing") or path.parent.name == "testing", path


def _list_documented_tests() -> list[CodeBlock]:
    return [block for block in list_code_blocks(DOCS / "schedules.md", "python") if block.code.startswith("# tests/")]


def test_documented_tests_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    package = pytester.mkpydir("schedules")
    for file in (ROOT / "schedules").glob("[a-z]*.py"):
        (package / file.name).write_text(file.read_text())
    [block] = _list_documented_tests()
    pytester.makepyfile(block.code)
    run(pytester).assert_outcomes(passed=block.code.count("\ndef test_"))
