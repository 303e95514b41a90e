"""Live streams: every change once, in order, resumable, and bounded in number."""

from collections.abc import Iterator
from typing import Any

import pytest

from jobworker.api.context import MAX_STREAMS
from jobworker.clock import ManualClock
from jobworker.domain.executions.log_limits import DroppedLines
from jobworker.services.executions import execution_stream
from jobworker.store.executions import log_lines
from tests.conftest import NOW
from tests.integration.http.conftest import ApiDriver
from tests.integration.http.sse_client import ServerSentEvent, parse_events

FAILURE = {"type": "E", "message": "no", "traceback": ""}


class EventStreamReader:
    """Reader of the events of one execution, one at a time; the clock advances only while the test waits."""

    def __init__(self, api: ApiDriver, execution: str, last: str | None = None) -> None:
        headers = {} if last is None else {"Last-Event-ID": last}
        self.response = api.client.get(f"/api/v1/executions/{execution}/events", headers=headers, buffered=False)
        self.events: Iterator[ServerSentEvent] = parse_events(self.response.response)

    def read_next(self) -> ServerSentEvent:
        """Return the next event."""
        return next(self.events)

    def read_rest(self) -> list[ServerSentEvent]:
        """Return all further events until the stream ends."""
        return list(self.events)

    def close(self) -> None:
        """Close the stream."""
        self.response.close()


@pytest.fixture
def self_advancing_api(any_api: ApiDriver) -> ApiDriver:
    """Driver with a clock that advances by itself, so that no test waits; on SQLite, then on PostgreSQL."""
    any_api.app.extensions["jobworker"].clock = ManualClock(any_api.app.extensions["jobworker"].clock.now())
    return any_api


def _list_content(server_events: list[ServerSentEvent]) -> list[Any]:
    return [
        event.data.get("state") or event.data.get("message") or event.data.get("done") or event.kind
        for event in server_events
    ]


def test_stream_of_ended_execution_lists_all_events(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    self_advancing_api.enter_state(
        execution, 1, "Running", progress={"attempt": 1, "done": 2, "total": 2, "message": None}
    )
    self_advancing_api.enter_state(execution, 1, "Retrying", error=FAILURE)
    self_advancing_api.enter_state(execution, 1, "Queued")
    self_advancing_api.insert_log_line(execution, 1, "one")
    self_advancing_api.insert_log_line(execution, 2, "two")
    self_advancing_api.enter_state(execution, 2, "Running")
    self_advancing_api.enter_state(execution, 2, "Succeeded")
    server_events = EventStreamReader(self_advancing_api, execution).read_rest()
    expected = ["Queued", "Running", "Retrying", "Queued", "Running", 2, "one", "two", "Succeeded", "end"]
    assert _list_content(server_events) == expected
    assert [event.kind for event in server_events] == ["state"] * 5 + ["progress", "log", "log", "state", "end"]


def test_stream_sends_events_as_they_happen(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    stream = EventStreamReader(self_advancing_api, execution)
    assert stream.read_next().data["state"] == "Queued"
    self_advancing_api.enter_state(execution, 1, "Running")
    assert stream.read_next().data["state"] == "Running"
    self_advancing_api.update_execution(execution, progress={"attempt": 1, "done": 1, "total": 3, "message": "reading"})
    assert stream.read_next().data == {"attempt": 1, "done": 1, "total": 3, "message": "reading"}
    self_advancing_api.insert_log_line(execution, 5, "hello")
    assert stream.read_next().data["message"] == "hello"
    self_advancing_api.enter_state(execution, 1, "Failed", reason="no attempt left")
    assert stream.read_next().data["reason"] == "no attempt left"
    assert [event.kind for event in stream.read_rest()] == ["end"]


def test_stream_sends_complete_metadata_after_each_change(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    stream = EventStreamReader(self_advancing_api, execution)
    assert stream.read_next().kind == "state"
    for metadata in ({"page": 1}, {"page": 2, "of": 3}):
        self_advancing_api.update_execution(execution, metadata=metadata)
        event = stream.read_next()
        assert (event.kind, event.data) == ("metadata", metadata)
    assert self_advancing_api.client.get(f"/api/v1/executions/{execution}").json["metadata"] == {"page": 2, "of": 3}
    self_advancing_api.enter_state(execution, 1, "Succeeded")
    assert _list_content(stream.read_rest()) == ["Succeeded", "end"]


def test_stream_waits_for_outstanding_log_lines(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    self_advancing_api.enter_state(execution, 1, "Succeeded", event_id="2000-1")
    _get_last_log_seq(self_advancing_api, "2000-0")
    stream = EventStreamReader(self_advancing_api, execution)
    assert [stream.read_next().data["state"] for _ in range(2)] == ["Queued", "Succeeded"]
    assert stream.read_next().kind == "comment", "ten seconds, and still there"
    self_advancing_api.insert_log_line(execution, 1, "a line that travelled slowly")
    _get_last_log_seq(self_advancing_api, "2000-1")
    assert _list_content(stream.read_rest()) == ["a line that travelled slowly", "end"]


def test_stream_stops_waiting_for_outstanding_lines_after_a_while(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    self_advancing_api.enter_state(execution, 1, "Succeeded", event_id="2000-1")
    _get_last_log_seq(self_advancing_api, "1999-7")
    assert [event.kind for event in EventStreamReader(self_advancing_api, execution).read_rest()] == [
        "state",
        "state",
        *["comment"] * 5,
        "end",
    ]


def _get_last_log_seq(api: ApiDriver, event_id: str) -> None:
    with api.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE relay_state SET logged_through = '{event_id}'")


def _insert_log_lines(api: ApiDriver, execution: str, lines: int) -> str:
    mark = log_lines.build_truncation_mark(execution, DroppedLines(lines, lines), 1, NOW)
    with api.database.write() as connection:
        log_lines.replace_truncation_marks(connection, [mark])
    return mark.message


def test_stream_reports_a_full_log_at_once_and_its_count_at_the_end(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    self_advancing_api.insert_log_line(execution, 1, "one")
    first = _insert_log_lines(self_advancing_api, execution, 3)
    stream = EventStreamReader(self_advancing_api, execution)
    events = [stream.read_next() for _ in range(3)]
    assert _list_content(events) == ["Queued", "one", first]
    _insert_log_lines(self_advancing_api, execution, 4)
    self_advancing_api.enter_state(execution, 1, "Running")
    assert stream.read_next().data["state"] == "Running"
    last = _insert_log_lines(self_advancing_api, execution, 5)
    self_advancing_api.enter_state(execution, 1, "Succeeded")
    assert _list_content(stream.read_rest()) == [last, "Succeeded", "end"]
    # A reader that has seen the first notice receives the last one; one that has seen the last receives no more.
    again = EventStreamReader(self_advancing_api, execution, events[-1].id).read_rest()
    assert _list_content(again) == ["Running", last, "Succeeded", "end"]
    assert _list_content(EventStreamReader(self_advancing_api, execution, again[1].id).read_rest()) == [
        "Succeeded",
        "end",
    ]


def test_stream_sends_lines_that_arrive_after_the_end(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    self_advancing_api.enter_state(execution, 1, "Succeeded")
    stream = EventStreamReader(self_advancing_api, execution)
    assert [stream.read_next().data["state"] for _ in range(2)] == ["Queued", "Succeeded"]
    self_advancing_api.insert_log_line(execution, 9, "late")
    assert _list_content(stream.read_rest()) == ["late", "end"]


def test_stream_resumes_after_the_last_event_id(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    self_advancing_api.enter_state(execution, 1, "Running")
    for number in range(3):
        self_advancing_api.insert_log_line(execution, number, f"line {number}")
    self_advancing_api.enter_state(execution, 1, "Succeeded")
    whole = [entry for entry in EventStreamReader(self_advancing_api, execution).read_rest() if entry.id]
    for number, event in enumerate(whole):
        again = [entry for entry in EventStreamReader(self_advancing_api, execution, event.id).read_rest() if entry.id]
        assert again == whole[number + 1 :]


def test_stream_sends_many_lines_in_order(self_advancing_api: ApiDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_stream, "_MAX_LINES_PER_POLL", 10)
    execution = self_advancing_api.submit_accepted()["id"]
    for number in range(35):
        self_advancing_api.insert_log_line(execution, number, f"line {number}")
    self_advancing_api.enter_state(execution, 1, "Succeeded")
    server_events = EventStreamReader(self_advancing_api, execution).read_rest()
    assert [event.data["message"] for event in server_events if event.kind == "log"] == [f"line {n}" for n in range(35)]


@pytest.mark.parametrize("bookmark", ["", "7", "1.1", "1.1~x", "a.b~", "1.1~1~1", "9" * 500])
def test_invalid_last_event_id_is_rejected(api: ApiDriver, bookmark: str) -> None:
    execution = api.submit_accepted()["id"]
    response = api.client.get(f"/api/v1/executions/{execution}/events", headers={"Last-Event-ID": bookmark})
    assert (response.status_code, response.json["code"]) == (422, "invalid_cursor")
    assert response.json["errors"][0]["pointer"] == "Last-Event-ID"


def test_idle_stream_sends_comments(self_advancing_api: ApiDriver) -> None:
    stream = EventStreamReader(self_advancing_api, self_advancing_api.submit_accepted()["id"])
    assert stream.read_next().kind == "state"
    assert stream.read_next().kind == "comment"
    assert stream.read_next().kind == "comment"


def test_streams_above_the_limit_are_rejected(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    room = self_advancing_api.app.extensions["jobworker"]
    for number in range(MAX_STREAMS - 1):
        room.streams.acquire(f"192.0.2.{number % 8}")
    last = EventStreamReader(self_advancing_api, execution)
    refused = self_advancing_api.client.get(f"/api/v1/executions/{execution}/events")
    assert (refused.status_code, refused.json["code"], refused.headers["Retry-After"]) == (503, "busy", "2")
    last.close()
    another = EventStreamReader(self_advancing_api, execution)
    assert another.response.status_code == 200
    another.close()


def test_open_streams_are_counted(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    stream = EventStreamReader(self_advancing_api, execution)
    assert "jobworker_event_streams 1.0" in self_advancing_api.client.get("/metrics").text
    stream.close()
    assert "jobworker_event_streams 0.0" in self_advancing_api.client.get("/metrics").text


def test_stream_response_is_not_cached(self_advancing_api: ApiDriver) -> None:
    stream = EventStreamReader(self_advancing_api, self_advancing_api.submit_accepted()["id"])
    assert stream.response.mimetype == "text/event-stream"
    assert stream.response.headers["Cache-Control"] == "no-store"
    stream.close()


def test_stream_data_is_one_line_of_json(self_advancing_api: ApiDriver) -> None:
    execution = self_advancing_api.submit_accepted()["id"]
    self_advancing_api.insert_log_line(execution, 1, "two\nlines\r\nand ünïcode\u2028")
    self_advancing_api.enter_state(execution, 1, "Succeeded")
    [line] = [event for event in EventStreamReader(self_advancing_api, execution).read_rest() if event.kind == "log"]
    assert line.data["message"] == "two\nlines\r\nand ünïcode\u2028"
