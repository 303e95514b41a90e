"""JSON values that `json_values` accepts are read back equal, from SQL and from a message to a worker."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from jobworker.domain.errors import InvalidParameters
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.json import json_values
from jobworker.domain.json.json_values import UnacceptableValue
from jobworker.relay.dependency_resolution import DependencyResolver
from jobworker.services.executions import dead_letters
from jobworker.services.executions.dead_letters import RedriveOptions
from jobworker.services.submissions import preparation
from jobworker.store.database.database import Database, describe_error
from jobworker.store.tables import core
from tests.conformance.execution_driver import FAILED, ExecutionDriver

TEXT = st.text(st.characters(codec=None), max_size=5) | st.sampled_from(
    ["\x00", "\ud800", "__type__", "__value__", "🎈"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), 1e16, 1e22, -0.0, 5e-324, 1.7976931348623157e308])
    | TEXT
)
TAGGED = st.fixed_dictionaries({"__type__": st.sampled_from(["uuid", "date", "x"]), "__value__": SCALARS})
VALUES = st.recursive(
    SCALARS | TAGGED,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT | st.sampled_from([1, "1", None]), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture
def driver(database: Database) -> ExecutionDriver:
    return ExecutionDriver(database)


def make_nested(levels: int, innermost: Any = 1) -> Any:
    for _ in range(levels):
        innermost = [innermost]
    return innermost


def read_stored(driver: ExecutionDriver, execution: str, value: Any) -> Any:
    """Return a value as read back from the database."""
    with driver.database.write() as connection:
        mine = core.executions.c.id == execution
        connection.execute(sa.update(core.executions).where(mine).values(result=value))
        return connection.scalar(sa.select(core.executions.c.result).where(mine))


def is_same_json(actual: Any, expected: Any) -> bool:
    """Return whether two JSON values are equal. PostgreSQL returns 1e16 and more as integers with these digits."""
    if isinstance(expected, float) and isinstance(actual, int):
        return float(actual) == expected
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(is_same_json, actual, expected))
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            is_same_json(actual[key], value) for key, value in expected.items()
        )
    return type(actual) is type(expected) and bool(actual == expected)


def test_accepted_json_value_is_read_back_equal(driver: ExecutionDriver) -> None:
    execution = driver.submit("load")

    @settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
    @given(VALUES)
    def comes_back(value: Any) -> None:
        try:
            json_values.check(value)
        except UnacceptableValue:
            return
        text = json.dumps(value, allow_nan=False)
        as_json = json.loads(text)
        assert json_values.parse(text) == as_json
        assert json_values.parse_sanitized(text) == as_json, "nothing in it needs mending"
        assert is_same_json(read_stored(driver, execution, value), as_json)
        assert kombu_json.loads(kombu_json.dumps(value)) == as_json

    comes_back()
    for value in (make_nested(json_values.MAX_DEPTH), {"a": make_nested(json_values.MAX_DEPTH - 1)}):
        json_values.check(value)
        assert read_stored(driver, execution, value) == value


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (make_nested(80), "nesting of more than 100 levels"),
        ({"__type__": "uuid", "__value__": "zz"}, "__type__"),
        ([2**70], "64 bits"),
        ("a\x00b", "NUL"),
    ],
)
def test_dependent_with_unacceptable_parameters_fails_alone(
    driver: ExecutionDriver, result: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = driver.submit("extract")
    nested = {"rows": make_nested(40, {"$from": parent})}
    child, sibling = (
        driver.submit("load", parameters=parameters, depends_on=[parent]) for parameters in (nested, {"rows": 1})
    )
    # Databases refuse different values: this one stores a result that a worker of another version may have reported.
    monkeypatch.setattr(
        "jobworker.store.workflows.dependency_rows.get_results", lambda _, ids: dict.fromkeys(ids, result)
    )
    driver.report_end(parent, result=1)
    row = driver.get(child)
    assert (row.state, row.error and row.error["type"]) == (ExecutionState.FAILED, "InvalidParameters")
    assert why in (row.reason or "")
    assert "\x00" not in (row.reason or "")
    assert (driver.get_state(parent), driver.get_state(sibling)) == (ExecutionState.SUCCEEDED, ExecutionState.QUEUED)


@pytest.fixture
def failing_driver(driver: ExecutionDriver, monkeypatch: pytest.MonkeyPatch) -> ExecutionDriver:
    """Driver whose store raises an unforeseen error for parameters that contain "bad"."""
    check = preparation.check_parameters

    def checked(accepted: Any, parameters: Any, *more: Any) -> Any:
        if parameters.get("rows") == "bad":
            raise TypeError("Recursion limit reached")
        return check(accepted, parameters, *more)

    monkeypatch.setattr(preparation, "check_parameters", checked)
    return driver


def test_dependent_that_cannot_be_written_fails_alone(failing_driver: ExecutionDriver) -> None:
    driver = failing_driver
    parent = driver.submit("extract")
    children = [driver.submit("load", parameters={"rows": {"$from": parent}}, depends_on=[parent]) for _ in range(2)]
    plain = driver.submit("load", depends_on=[parent])
    after = driver.submit("report", depends_on=[children[0]])
    driver.report_end(parent, result="bad")
    for child in children:
        row = driver.get(child)
        assert (row.state, row.error and row.error["type"]) == (ExecutionState.FAILED, "ReleaseRefused")
        assert row.reason == "its outcome cannot be recorded: TypeError: Recursion limit reached"
        assert driver.list_states(child) == ["Waiting", "Failed"]
    assert (driver.get_state(parent), driver.get_state(plain), driver.get_state(after)) == (
        ExecutionState.SUCCEEDED,
        ExecutionState.QUEUED,
        ExecutionState.SKIPPED,
    )


def test_sweep_passes_dependent_that_cannot_be_written(failing_driver: ExecutionDriver) -> None:
    driver = failing_driver
    parent = driver.submit("extract")
    child = driver.submit("load", parameters={"rows": {"$from": parent}}, depends_on=[parent])
    with driver.database.write() as connection:
        # State after a relay died between recording the end and resolving the dependents.
        mine = core.executions.c.id == parent
        connection.execute(sa.update(core.executions).where(mine).values(state="Succeeded", result="bad"))
    DependencyResolver(driver.database, driver.clock).resolve_missed()
    assert driver.get_state(child) is ExecutionState.FAILED
    assert driver.get(child).error["type"] == "ReleaseRefused"  # type: ignore[index]


def test_merged_parameters_are_validated_as_a_whole(driver: ExecutionDriver) -> None:
    driver.define_job("load", defaults={"__type__": "uuid"})
    with pytest.raises(InvalidParameters, match="__type__"):
        driver.submit("load", parameters={"__value__": "zz"})
    assert driver.submit("load", parameters={"__value__": "zz", "more": 1})


def test_rerun_keeps_date_of_direct_call_and_rejects_a_patch_with_one(driver: ExecutionDriver) -> None:
    date = {"__type__": "date", "__value__": "2026-03-02"}
    called = driver.submit("load")
    with driver.database.write() as connection:
        # State after the relay recorded a direct call.
        mine = core.executions.c.id == called
        connection.execute(sa.update(core.executions).where(mine).values(parameters={"day": date}))
    driver.report_end(called, FAILED)
    again = dead_letters.rerun(driver.database, driver.clock, called, RedriveOptions(), "ann")
    assert again.parameters == {"day": date}
    plain = driver.submit("load", parameters={"day": {"__type__": "date"}})
    driver.report_end(plain, FAILED)
    patch = {"day": {"__value__": "2026-03-02"}}
    with pytest.raises(InvalidParameters, match="__type__"):
        dead_letters.rerun(driver.database, driver.clock, plain, RedriveOptions(patch=patch), "ann")


def test_integrity_error_text_omits_the_row(database: Database) -> None:
    """PostgreSQL quotes the row in its error."""
    row = {"id": "hush", "task": "hush", "parameters": {"text": "hush"}, "result": "hush"}
    with pytest.raises(sa.exc.IntegrityError) as refused, database.write() as connection:
        connection.execute(sa.insert(core.executions).values(row))
    text = f"{refused.value} {refused.value.orig} {describe_error(refused.value)}"
    assert "hush" not in text
    assert "job" in text
