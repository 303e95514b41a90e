"""Cancellation by filter: all unfinished executions, and no others."""

from typing import Any

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import audit
from tests.integration.http.conftest import ApiDriver


def _cancel_many(api: ApiDriver, **body: Any) -> dict[str, Any]:
    response = api.client.post("/api/v1/executions/cancel", json=body)
    assert response.status_code == 200, response.json
    outcome: dict[str, Any] = response.json
    return outcome


def _get_execution(api: ApiDriver, execution: str) -> dict[str, Any]:
    row: dict[str, Any] = api.client.get(f"/api/v1/executions/{execution}").json
    return row


def _create_one_of_each_state(api: ApiDriver) -> dict[str, str]:
    ids = {"Scheduled": api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 3600})["id"]}
    for state in ("Queued", "Running", "Retrying", "Succeeded", "Failed"):
        ids[state] = api.submit_accepted()["id"]
        if state != "Queued":
            api.enter_state(ids[state], 1, state)
    return ids


def test_cancel_by_filter_cancels_waiting_and_requests_stop_of_started(any_api: ApiDriver) -> None:
    ids = _create_one_of_each_state(any_api)
    done = _cancel_many(any_api, filter={"job": "export"})
    assert (done["matched"], done["done"], done["refused"], done["next"]) == (4, 4, 0, None)
    assert done["states"] == {"Scheduled": 1, "Queued": 1, "Running": 1, "Retrying": 1}
    shown = {state: _get_execution(any_api, key) for state, key in ids.items()}
    assert {state: row["state"] for state, row in shown.items()} == {
        **{state: state for state in ids},
        "Scheduled": "Cancelled",
        "Retrying": "Cancelled",
    }
    requested_states = {state for state, row in shown.items() if row["cancel_requested_by"] == "api"}
    assert requested_states == {"Scheduled", "Queued", "Running", "Retrying"}
    assert shown["Retrying"]["finished_at"]
    last = any_api.client.get(shown["Retrying"]["links"]["transitions"]).json["items"][-1]
    assert (last["state"], last["attempt"], last["actor"], last["reason"]) == (
        "Cancelled",
        1,
        "api",
        "cancelled by api",
    )
    with any_api.database.read() as connection:
        [entry] = audit.list_by_subject(connection, "executions")
    assert entry.after is not None
    assert {len(entry.after["cancelled"]), len(entry.after["asked"])} == {2}
    # The first request is kept, and a repeated request has no effect.
    assert _cancel_many(any_api, filter={"job": "export"})["done"] == 0


def test_dry_run_returns_matches_and_changes_nothing(any_api: ApiDriver) -> None:
    ids = _create_one_of_each_state(any_api)
    done = _cancel_many(any_api, all=True, dry_run=True)
    assert (done["dry_run"], done["matched"], done["done"]) == (True, 4, 4)
    assert {execution["id"] for execution in done["sample"]} == {
        ids[state] for state in ("Scheduled", "Queued", "Running", "Retrying")
    }
    assert {state: _get_execution(any_api, key)["state"] for state, key in ids.items()} == {
        state: state for state in ids
    }
    assert _get_execution(any_api, ids["Queued"])["cancel_requested_at"] is None


def test_filters_select_executions_to_cancel(any_api: ApiDriver) -> None:
    any_api.create_queue("mail")
    mail = any_api.submit_accepted({"parameters": {"user_id": "u"}, "queue": "mail", "delay": 60})["id"]
    correlated = any_api.submit_accepted({"parameters": {"user_id": "u"}, "correlation_id": "c-1", "delay": 60})["id"]
    assert [execution["id"] for execution in _cancel_many(any_api, filter={"queue": "mail"})["sample"]] == [mail]
    assert _get_execution(any_api, correlated)["state"] == ExecutionState.SCHEDULED
    assert _cancel_many(any_api, filter={"correlation_id": "c-1", "state": "Queued"})["done"] == 0
    ended = _cancel_many(any_api, ids=[mail, correlated])
    assert (ended["done"], [problem["code"] for problem in ended["problems"]]) == (1, ["not_cancellable"])


def test_cancel_many_continues_with_a_cursor(any_api: ApiDriver) -> None:
    ids = [any_api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 60})["id"] for _ in range(5)]
    first = _cancel_many(any_api, all=True, limit=2)
    second = _cancel_many(any_api, all=True, limit=2, cursor=first["next"])
    third = _cancel_many(any_api, all=True, limit=2, cursor=second["next"])
    assert [(outcome["done"], outcome["left"]) for outcome in (first, second, third)] == [(2, 3), (2, 1), (1, 0)]
    assert {_get_execution(any_api, key)["state"] for key in ids} == {"Cancelled"}
