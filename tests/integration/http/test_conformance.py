"""Requests that schemathesis makes up from the description of the API: every answer is one that it promises.

Each operation gets the cases that cover its schema, and `JOBWORKER_TEST_CASES` random ones: few here, 5,000 of each
before a release. Half of them break the schema. Two checks are not applied:

- positive_data_acceptance: that a job exists, or that `from` is before `to`, is in no schema; such requests are 422.
- those of sequences of requests and of accounts (use_after_free, ignored_auth, …): there are no accounts, and sequences
  are what the other tests are about.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from jobworker.clock import SystemClock
from jobworker.domain.ids import IdFactory
from jobworker.files.local import LocalFiles
from jobworker.services import preparing
from jobworker.store import schedules
from jobworker.store.database import Database
from tests.integration.http.conftest import World, seed, world_on

_CASES = int(os.environ.get("JOBWORKER_TEST_CASES", "10"))

#: The first ids that `_CountedIds` makes: executions, a schedule, a batch.
_IDS = [f"00000000-0000-7000-8000-{number:012}" for number in range(1, 7)]
_NAMES = ["export", "nightly", "office", "background", "tasks.exports.export", "result-1.json"]

_API = schemathesis.openapi.from_path(
    "docs/openapi.json",
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "generation": {
                "max-examples": _CASES,
                "deterministic": True,
                "database": "none",
                "dictionaries": {"string": {"dictionary": "words", "probability": 0.1}},
            },
            "dictionaries": {
                "ids": {"values": _IDS},
                "names": {"values": _NAMES},
                "tags": {"values": ["*", '"1"', '"2"']},
                "words": {"values": _IDS + _NAMES},
            },
            "parameters": {
                "execution_id": {"dictionary": "ids", "probability": 0.7},
                "batch_id": {"dictionary": "ids", "probability": 0.7},
                "name": {"dictionary": "names", "probability": 0.7},
                "If-Match": {"dictionary": "tags", "probability": 0.8},
            },
            "checks": {
                "positive_data_acceptance": {"enabled": False},
                "missing_required_header": {"expected-statuses": [400, 404, 415, 422, 428]},
            },
            # There is no Redis in these tests, which is what it says.
            "operations": [{"include-path": "/readyz", "checks": {"not_a_server_error": {"expected-statuses": [503]}}}],
        }
    ),
)


class _CountedIds(IdFactory):
    """Ids that are the same in each run."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    def new(self, unix_ms: int) -> str:
        return f"00000000-0000-7000-8000-{next(self._numbers):012}"


@pytest.fixture
def furnished(sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The application with something at each of its resources."""
    ids = _CountedIds()
    monkeypatch.setattr(preparing, "_ids", ids)
    monkeypatch.setattr(schedules, "_ids", ids)
    seed(sqlite_database)
    world = world_on(sqlite_database, HOME=str(tmp_path))
    failed, succeeded, _ = (world.submitted()["id"] for _ in range(3))
    ended = {"worker": "w1", "finished_at": SystemClock().now()}
    error = {"type": "OSError", "message": "no space", "traceback": None}
    world.entered(failed, 1, "Failed", dead_letter="open", fingerprint="f", error=error, **ended)
    result = LocalFiles(tmp_path, succeeded).save_result(1, b"[]")
    world.entered(succeeded, 1, "Succeeded", result_file=result, **ended)
    world.log(failed, 1, "hello")
    world.worker()
    given = {"parameters": {"user_id": "u"}}
    rule = {"kind": "daily", "time": "02:00"}
    for path, body in (
        ("calendars", {"name": "office", "kind": "business"}),
        ("schedules", {"name": "nightly", "job": "export", "rule": rule, **given}),
        ("jobs", {"name": "nightly", "task": "tasks.exports.export"}),
        ("executions/batch", {"executions": [{"job": "export", **given}]}),
    ):
        response = world.client.post(f"/api/v1/{path}", json=body)
        assert response.status_code < 300, response.json
    yield world
    world.app.extensions["jobworker"].database.dispose()


@_API.parametrize()
@settings(suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_is_described(case: schemathesis.Case, furnished: World) -> None:
    case.call_and_validate(app=furnished.app)
