"""Imports of iCalendar files over HTTP."""

import datetime as dt
import pathlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.domain.calendars.calendars import DateCalendar
from jobworker.domain.calendars.icalendar import parser
from jobworker.domain.calendars.icalendar.parser import ICalendarContents
from jobworker.domain.jobs.definition import JobOwner
from jobworker.services.calendars import calendar_changes
from tests.integration.http.conftest import ApiDriver
from tests.unit.icalendar_files import APPLE

ROOT = "/api/v1/calendars"
FILES = pathlib.Path(__file__).parents[2] / "unit" / "ics"

#: Timeout of waits for another thread (s).
DEADLINE = 30
TODAY = SystemClock().now().date()


def make_file(*days: int, zone: str = "Europe/Berlin") -> str:
    """Return a file with one event of two hours for each given number of days from now."""
    events = []
    for number in days:
        day = f"{TODAY + dt.timedelta(days=number):%Y%m%d}"
        lines = [f"UID:{number}", f"SUMMARY:Event {number}", f"DTSTART:{day}T100000Z", f"DTEND:{day}T120000Z"]
        events += ["BEGIN:VEVENT", *lines, "END:VEVENT"]
    head = [f"X-WR-TIMEZONE:{zone}"] if zone else []
    return "\r\n".join(["BEGIN:VCALENDAR", *head, *events, "END:VCALENDAR", ""])


def import_file(api: ApiDriver, text: str, query: str = "", match: str | None = None, **options: Any) -> Any:
    """Import a file."""
    headers = {} if match is None else {"If-Match": match}
    request_options = {"content_type": "text/calendar; charset=utf-8", **options}
    return api.client.post(f"{ROOT}/releases/import{query}", data=text.encode(), headers=headers, **request_options)


def list_window_names(api: ApiDriver) -> list[str]:
    """Return the names of the calendar's windows."""
    return [window["name"] for window in api.client.get(f"{ROOT}/releases").json["windows"]]


def test_import_creates_a_calendar(any_api: ApiDriver) -> None:
    response = import_file(any_api, make_file(1, 2, -500))
    assert (response.status_code, response.headers["ETag"]) == (200, '"1"'), response.json
    done = response.json
    assert (done["created"], done["changed"], done["dry_run"], done["revision"]) == (True, True, False, 1)
    assert (done["zone"], done["events"], done["days"]) == ("Europe/Berlin", 3, {})
    assert [window["name"] for window in done["windows"]] == ["Event 1", "Event 2"]
    [left_out] = done["left_out"]
    assert (left_out["uid"], left_out["name"]) == ("-500", "Event -500")
    assert left_out["reason"].startswith("nothing of it is from ")
    assert dt.date.fromisoformat(done["to"]) - dt.date.fromisoformat(done["from"]) == dt.timedelta(days=4026)
    shown = any_api.client.get(f"{ROOT}/releases").json
    assert (shown["kind"], shown["windows"], shown["owner"]) == ("dates", done["windows"], "api")


def test_import_replaces_the_dates_of_a_calendar(any_api: ApiDriver) -> None:
    calendar = {"name": "releases", "kind": "dates", "days": ["2026-06-30"], "description": "d"}
    kept = {"holidays": [{"country": "DE", "subdivision": None}]}
    assert any_api.client.post(ROOT, json={**calendar, **kept}).status_code == 201
    missing = import_file(any_api, make_file(1))
    assert (missing.status_code, missing.json["code"]) == (428, "precondition_required")
    stale = import_file(any_api, make_file(1), match='"7"')
    assert (stale.status_code, stale.json["code"]) == (412, "precondition_failed")
    done = import_file(any_api, make_file(1), match='"1"')
    assert (done.status_code, done.json["revision"], done.json["created"]) == (200, 2, False), done.json
    shown = any_api.client.get(f"{ROOT}/releases").json
    assert (shown["description"], shown["holidays"], shown["days"]) == ("d", kept["holidays"], {})
    again = import_file(any_api, make_file(1), match='"2"').json
    assert (again["revision"], again["changed"]) == (2, False)


def test_dry_run_writes_nothing(any_api: ApiDriver) -> None:
    response = import_file(any_api, make_file(1), "?dry_run=true")
    assert (response.status_code, "ETag" in response.headers) == (200, False)
    assert (response.json["dry_run"], response.json["created"], response.json["revision"]) == (True, True, None)
    assert any_api.client.get(f"{ROOT}/releases").status_code == 404
    assert import_file(any_api, make_file(1)).status_code == 200
    response = import_file(any_api, make_file(2), "?dry_run=true")
    assert (response.json["changed"], response.json["revision"]) == (True, 1)
    assert list_window_names(any_api) == ["Event 1"]


def test_import_zone_comes_from_the_file_or_the_query(api: ApiDriver) -> None:
    response = import_file(api, make_file(1, zone=""))
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "zone")
    unknown = import_file(api, make_file(1), "?zone=Berlin").json["errors"]
    assert [(error["pointer"], error["code"]) for error in unknown] == [("zone", "unknown_zone")]
    [window] = import_file(api, make_file(1, zone=""), "?zone=Asia/Tokyo&dry_run=true").json["windows"]
    assert window["from"].endswith("T19:00")


def test_import_leaves_out_free_time_and_lists_it(api: ApiDriver) -> None:
    text = make_file(1, 2).replace("SUMMARY:Event 1", "SUMMARY:Event 1\r\nTRANSP:TRANSPARENT")
    [left_out] = import_file(api, text, "?dry_run=true").json["left_out"]
    done = import_file(api, text).json
    assert (done["left_out"], done["left_out_total"], list_window_names(api)) == ([left_out], 1, ["Event 2"])
    assert left_out["reason"] == "it is free time (TRANSP:TRANSPARENT); include_free=true imports it"
    done = import_file(api, text, "?include_free=true", match='"1"').json
    assert (done["left_out"], done["left_out_total"], list_window_names(api)) == ([], 0, ["Event 1", "Event 2"])


def test_dry_run_lists_events_left_out_of_a_file_without_others(api: ApiDriver) -> None:
    text = (FILES / "free_transparent.ics").read_text()
    dry_run = import_file(api, text, "?dry_run=true")
    assert (dry_run.status_code, dry_run.json["days"], dry_run.json["left_out_total"]) == (200, {}, 1)
    response = import_file(api, text)
    assert (response.status_code, response.json["errors"][0]["code"]) == (422, "empty")
    assert "'a' (UID u1): it is free time (TRANSP:TRANSPARENT); include_free=true imports it" in response.json["detail"]


def test_import_lists_at_most_100_events_left_out(api: ApiDriver) -> None:
    done = import_file(api, make_file(1, *range(-1100, -1000))).json
    assert (done["left_out_total"], len(done["left_out"])) == (100, 100)
    done = import_file(api, make_file(1, *range(-1101, -1000)), match="*").json
    assert (done["left_out_total"], len(done["left_out"])) == (101, 100)


def test_import_options_accept_only_true(api: ApiDriver) -> None:
    for option in ("dry_run", "include_free"):
        [error] = import_file(api, make_file(1), f"?{option}=no").json["errors"]
        assert (error["pointer"], error["code"]) == (option, "not_allowed")


def test_concurrent_import_is_rejected_as_busy(api: ApiDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, done = threading.Event(), threading.Event()
    read = parser.parse

    def slow(*arguments: Any) -> ICalendarContents:
        reading.set()
        assert done.wait(DEADLINE)
        return read(*arguments)

    monkeypatch.setattr(parser, "parse", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(import_file, api, make_file(1))
        assert reading.wait(DEADLINE)
        second = import_file(api, make_file(2))
        done.set()
        assert first.result().status_code == 200
    assert (second.status_code, second.json["code"], second.headers["Retry-After"]) == (503, "busy", "2")
    assert second.json["detail"] == "another iCalendar file is being read; repeat this import in a moment"
    assert import_file(api, make_file(2), match="*").status_code == 200


def test_import_reads_a_file_of_a_calendar_program(api: ApiDriver) -> None:
    done = import_file(api, APPLE).json
    assert len(done["days"]) >= 10
    assert set(done["days"].values()) == {"Black Friday 🛒"}
    first = min(done["days"])
    held = api.client.get(f"{ROOT}/releases/days?from={first}&to={dt.date.fromisoformat(first) + dt.timedelta(1)}")
    assert [(day["name"], day["holds"]) for day in held.json["items"]] == [("Black Friday 🛒", ["00:00-24:00"])]


def test_import_into_deleted_calendar_returns_404(api: ApiDriver) -> None:
    response = import_file(api, make_file(1), match='"1"')
    assert (response.status_code, response.json["code"]) == (404, "calendar_not_found")


def test_import_does_not_replace_a_business_calendar(api: ApiDriver) -> None:
    assert api.client.post(ROOT, json={"name": "releases", "kind": "business"}).status_code == 201
    response = import_file(api, make_file(1), match="*")
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "name")
    assert "is of kind business" in response.json["detail"]


def test_import_does_not_replace_a_calendar_declared_in_code(api: ApiDriver) -> None:
    with api.database.write() as connection:
        dates = DateCalendar({dt.date(2026, 6, 30): "stocktaking"})
        calendar_changes.save(connection, "releases", dates, JobOwner.CODE, "code:v1", SystemClock().now())
    response = import_file(api, make_file(1), match="*")
    assert (response.status_code, response.json["code"]) == (409, "calendar_owned_by_code")


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", "bad_icalendar", "it must begin with BEGIN:VCALENDAR"),
        ("{}", "bad_icalendar", "it must begin with BEGIN:VCALENDAR"),
        (
            make_file(-1000),
            "empty",
            "nothing of the file's 1 events is left; 'Event -1000' (UID -1000): nothing of it is from",
        ),
        (make_file(), "empty", "the calendar would be empty: the file has no events (VEVENT)"),
        (make_file(1).replace("T120000Z", "T990000Z"), "bad_icalendar", "event 'Event 1' (UID 1): DTEND"),
    ],
)
def test_unreadable_file_returns_422_with_its_problem(api: ApiDriver, text: str, code: str, says: str) -> None:
    response = import_file(api, text)
    assert (response.status_code, response.json["code"]) == (422, "invalid_input")
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [("", code)]
    assert says in response.json["detail"]
    assert api.client.get(f"{ROOT}/releases").status_code == 404


def test_import_requires_a_calendar_content_type(api: ApiDriver) -> None:
    response = import_file(api, make_file(1), content_type="application/json")
    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")
    assert "send Content-Type: text/calendar or application/octet-stream" in response.json["detail"]
    assert import_file(api, make_file(1), content_type="application/octet-stream").status_code == 200


def test_import_with_invalid_calendar_name_is_rejected(api: ApiDriver) -> None:
    response = api.client.post(f"{ROOT}/a b/import", data=make_file(1), content_type="text/calendar")
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/name")
