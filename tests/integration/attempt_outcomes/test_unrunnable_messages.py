"""Ends of messages that never start a job: expired, unreadable, rejected, unknown task; also foreign ones."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.attempt_outcomes.conftest import BATCHED_KINDS, KOMBU_KIND, WorkerUnderTest
from tests.polling import wait_until

_EVERY_KIND = pytest.mark.parametrize("worker_under_test", BATCHED_KINDS, indirect=True, ids=str)

Change = Callable[[dict[str, Any]], Any]


def _set_body(text: bytes) -> Change:
    return lambda envelope: envelope.update(body=base64.b64encode(text).decode())


def _set_headers(**changed: Any) -> Change:
    return lambda envelope: envelope["headers"].update(changed)


#: Change of a message → kind of its report, and the beginning of the reason.
_TOO_LATE = "its deadline 2020-01-01T00:00:00+00:00 passed before it started"

_CHANGES: dict[str, tuple[Change, str, str]] = {
    "expired": (_set_headers(expires="2020-01-01T00:00:00+00:00"), "expired", _TOO_LATE),
    "no base64": (lambda envelope: envelope.update(body="%%%"), "rejected", "the message cannot be read"),
    "no JSON": (_set_body(b"{nope"), "rejected", "the body of the message cannot be read"),
    "other JSON": (_set_body(b'{"a": 1}'), "rejected", "the message cannot be read"),
    "content type": (
        lambda envelope: envelope.update({"content-type": "application/x-python-serialize"}),
        "rejected",
        "the message is not one that this worker accepts",
    ),
    "no time": (_set_headers(eta="yesterday"), "rejected", "the message is not one that this worker accepts"),
    "no task": (lambda envelope: envelope["headers"].pop("task"), "rejected", "the message is not a task"),
    "unknown task": (_set_headers(task="nobody.has.it"), "unknown_task", "this worker has no task nobody.has.it"),
}


@_EVERY_KIND
@pytest.mark.parametrize("change", _CHANGES)
def test_unrunnable_message_is_reported_with_its_reason(worker_under_test: WorkerUnderTest, change: str) -> None:
    driver = worker_under_test.driver
    how, kind, reason = _CHANGES[change]
    execution = driver.publish_changed(how)
    report = driver.wait_for_event(kind, execution)
    driver.wait_until_reported()
    assert driver.list_event_kinds(execution) == [kind]
    assert report["reason"] == reason
    assert report["worker"] in driver.list_workers()
    assert not driver.count_starts(execution)
    # Another worker may start the attempt if this worker lacks the task; no worker may if the attempt has ended.
    assert driver.get_run_record(execution) == ((0, "finished") if kind == "unknown_task" else (1, "finished"))


@pytest.mark.parametrize("worker_under_test", [KOMBU_KIND], indirect=True, ids=str)
@pytest.mark.parametrize("change", ["expired", "content type", "unknown task"])
def test_unrunnable_message_is_reported_on_kombu_transport(worker_under_test: WorkerUnderTest, change: str) -> None:
    driver = worker_under_test.driver
    how, kind, _ = _CHANGES[change]
    execution = driver.publish_changed(how)
    driver.wait_for_event(kind, execution)
    driver.wait_until_reported()
    assert driver.list_event_kinds(execution) == [kind]


_PLAIN_HEADERS = {"id": "plain-1", "task": "noop", "lang": "py"}


def _make_foreign_messages(**headers: Any) -> str:
    envelope = {
        "headers": {**_PLAIN_HEADERS, **headers},
        "properties": {"delivery_info": {"exchange": "", "routing_key": "default"}, "correlation_id": "plain-1"},
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "body": "[[], {}, {}]",
    }
    return json.dumps(envelope)


#: Foreign messages in queues of JobWorker.
_FOREIGN: dict[str, str | bytes] = {
    "no JSON": "garbage",
    "a list": "[]",
    "a number": "7",
    "nothing": "{}",
    "no text": b"\xff\xfe\x00",
    "no headers": '{"headers": null, "properties": {}, "body": ""}',
    "strange headers": _make_foreign_messages(jobworker="strange"),
    "half a header": _make_foreign_messages(jobworker={"execution": 5, "attempt": "one"}),
    "unknown task": _make_foreign_messages(task="nobody.has.it"),
}


@_EVERY_KIND
@pytest.mark.parametrize("message_name", _FOREIGN)
def test_unreadable_foreign_message_is_reported_and_dropped(
    worker_under_test: WorkerUnderTest, message_name: str
) -> None:
    driver = worker_under_test.driver
    before = len(driver.list_events())
    driver.push_raw(_FOREIGN[message_name])
    wait_until(lambda: len(driver.list_events()) > before, what="a report")
    driver.wait_until_reported()
    [(kind, report)] = driver.list_events()[before:]
    assert kind == "rejected"
    assert {"message", "task", "queue", "reason", "error"} == set(report)
    assert worker_under_test.worker.is_alive()


@_EVERY_KIND
def test_expired_foreign_message_is_reported(worker_under_test: WorkerUnderTest) -> None:
    driver = worker_under_test.driver
    before = len(driver.list_events())
    driver.push_raw(_make_foreign_messages(id="late-1", expires="2020-01-01T00:00:00+00:00"))
    wait_until(lambda: len(driver.list_events()) > before, what="a report")
    driver.wait_until_reported()
    [(kind, report)] = driver.list_events()[before:]
    assert kind == "expired"
    assert (report["message"], report["task"], report["queue"]) == ("late-1", "noop", "default")


@_EVERY_KIND
def test_plain_celery_message_runs_without_reports(worker_under_test: WorkerUnderTest) -> None:
    driver = worker_under_test.driver
    before = driver.list_events()
    driver.push_raw(_make_foreign_messages(task="plain_celery_task").replace("[[], {}, {}]", "[[1], {}, {}]"))
    driver.wait_until_reported()
    assert driver.list_events() == before
    assert "plain_celery_task[plain-1] succeeded" in worker_under_test.worker.log.read_text()
