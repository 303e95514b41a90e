"""Registration of announced tasks, with invalid announcements among them."""

from typing import Any

import pytest
import structlog

from jobworker.domain.jobs import policies
from jobworker.services.jobs import jobs, task_catalog
from jobworker.store import jobs as stored
from jobworker.store.database.database import Database
from tests.conformance.execution_driver import ExecutionDriver


@pytest.fixture
def driver(database: Database) -> ExecutionDriver:
    return ExecutionDriver(database)


def _make_announcement(name: str, **options: Any) -> dict[str, Any]:
    said = {"queue": "default", "priority": 5, "on_worker_lost": "retry", **options}
    return {"name": name, "description": "", "parameters": [], "options": said}


@pytest.mark.parametrize(
    ("retries", "attempts", "is_ignored"),
    [(None, None, False), (0, 1, False), (3, 4, False), (999, 1000, False), (1000, 1000, False), (10**9, 1000, False),
     (-1, None, True), ("x", None, True), (2.5, None, True), (True, None, True)],
)  # fmt: skip
def test_max_retries_becomes_a_valid_retry_policy(
    driver: ExecutionDriver, retries: Any, attempts: int | None, is_ignored: bool
) -> None:
    with structlog.testing.capture_logs() as logs:
        task_catalog.register_tasks(
            driver.database, driver.clock, [_make_announcement("plain", max_retries=retries)], "v1"
        )
    definition = jobs.get(driver.database, "plain").row.definition
    assert definition.max_attempts == attempts
    assert policies.normalize(definition.policies) == (definition.policies, [])
    ignored = [(line["job"], line["max_retries"]) for line in logs if line["event"] == "max_retries_ignored"]
    assert ignored == [("plain", retries)] * is_ignored


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "broken"},
        _make_announcement("broken", on_worker_lost="explode"),
        _make_announcement("broken", schedule={"kind": "sundial"}),
        _make_announcement("broken", max_retries=10**30),
    ],
)
def test_invalid_announcement_does_not_block_the_others(driver: ExecutionDriver, broken: dict[str, Any]) -> None:
    with structlog.testing.capture_logs() as logs:
        task_catalog.register_tasks(
            driver.database, driver.clock, [_make_announcement("one"), broken, _make_announcement("two")], "v1"
        )
    with driver.database.read() as connection:
        names = set(stored.list_nearby_names(connection, "broken"))
    assert {"one", "two"} <= names
    assert "broken" not in names
    assert [line["task"] for line in logs if line["event"] == "task_not_learnt"] == ["broken"]
