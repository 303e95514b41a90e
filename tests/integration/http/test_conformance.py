"""Requests that schemathesis makes up from the description of the API: every answer is one that it promises.

Each operation gets the cases that cover its schema, and `JOBWORKER_TEST_CASES` random ones: few here, 5,000 of each
before a release. Half of them break the schema. Two checks are not applied:

- positive_data_acceptance: that a job exists, or that `from` is before `to`, is in no schema; such requests are 422.
- those of sequences of requests and of accounts (use_after_free, ignored_auth, …): there are no accounts, and sequences
  are what the other tests are about.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from jobworker.api.endpoints import events
from jobworker.clock import SystemClock
from jobworker.domain.ids import IdFactory
from jobworker.files.local import LocalFiles
from jobworker.services.submissions import preparation
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from tests.integration.http.conftest import ApiDriver, create_api_driver, insert_export_job

_CASE_COUNT = int(os.environ.get("JOBWORKER_TEST_CASES", "10"))

#: First ids that `_CountedIds` creates: executions, a schedule, a batch.
_IDS = [f"00000000-0000-7000-8000-{number:012}" for number in range(1, 7)]
_NAMES = ["export", "nightly", "office", "background", "tasks.exports.export", "result-1.json"]

_API = schemathesis.openapi.from_path(
    "docs/openapi.json",
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "generation": {
                "max-examples": _CASE_COUNT,
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
                # A random Origin or Host is refused with 403 or 421 before all other checks.
                # A stale If-Match is refused with 412 before the body is read; a long body with 413.
                "negative_data_rejection": {
                    "expected-statuses": [400, 403, 404, 405, 409, 412, 413, 415, 421, 422, 428]
                },
                "missing_required_header": {"expected-statuses": [400, 403, 404, 415, 421, 422, 428]},
            },
            # These tests have no Redis, and the response states that.
            "operations": [
                {
                    "include-path": "/readyz",
                    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]}},
                }
            ],
        }
    ),
)


class _CountedIds(IdFactory):
    """Factory of ids that are equal in each run."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    def new(self, unix_ms: int) -> str:
        return f"00000000-0000-7000-8000-{next(self._numbers):012}"


@pytest.fixture(scope="module")
def populated_api(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[tuple[ApiDriver, Path]]:
    """Driver for the application with a row for each of its resources, and a copy of its database."""
    home = tmp_path_factory.mktemp("populated_api")
    file = Path(shutil.copy(_sqlite_template, home / "jobworker.db"))
    database = Database(f"sqlite:///{file}")
    with pytest.MonkeyPatch.context() as patch:
        ids = _CountedIds()
        patch.setattr(preparation, "_id_factory", ids)
        patch.setattr(schedule_rows, "_ids", ids)
        # Otherwise the stream of an unfinished execution takes minutes.
        patch.setattr(events, "_MAX_STREAM_SECONDS", 0.0)
        insert_export_job(database)
        api = create_api_driver(database, HOME=str(home))
        _create_resources(api, home)
        _close_engines(api)
        yield api, Path(shutil.copy(file, home / "copy.db"))
        _close_engines(api)


def _create_resources(api: ApiDriver, home: Path) -> None:
    failed, succeeded, _ = (api.submit_accepted()["id"] for _ in range(3))
    ended = {"worker": "w1", "finished_at": SystemClock().now()}
    error = {"type": "OSError", "message": "no space", "traceback": None}
    api.enter_state(failed, 1, "Failed", dead_letter="open", fingerprint="f", error=error, **ended)
    result = LocalFiles(home, succeeded).save_result(1, b"[]")
    api.enter_state(succeeded, 1, "Succeeded", result_file=result, **ended)
    api.insert_log_line(failed, 1, "hello")
    api.insert_worker()
    submission = {"parameters": {"user_id": "u"}}
    rule = {"kind": "daily", "time": "02:00"}
    for path, body in (
        ("calendars", {"name": "office", "kind": "business"}),
        ("schedules", {"name": "nightly", "job": "export", "rule": rule, **submission}),
        ("jobs", {"name": "nightly", "task": "tasks.exports.export"}),
        ("executions/batch", {"executions": [{"job": "export", **submission}]}),
    ):
        response = api.client.post(f"/api/v1/{path}", json=body)
        assert response.status_code < 300, response.json


def _close_engines(api: ApiDriver) -> None:
    """Close both engines: the last connection empties the write-ahead log."""
    api.database.dispose()
    api.app.extensions["jobworker"].database.dispose()


@pytest.fixture
def api(populated_api: tuple[ApiDriver, Path]) -> ApiDriver:
    """Driver for the application in the state before other operations changed rows."""
    api, copy = populated_api
    _close_engines(api)
    shutil.copy(copy, copy.with_name("jobworker.db"))
    return api


@_API.parametrize()
@settings(suppress_health_check=list(HealthCheck))
def test_response_conforms_to_the_openapi_description(case: schemathesis.Case[Any], api: ApiDriver) -> None:
    case.call_and_validate(app=api.app)
