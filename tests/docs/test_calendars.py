"""The calendars in the documentation are valid."""

import json

from jobworker.domain.calendars.calendar_parser import parse
from tests.docs.markdown import DOCS, list_code_blocks


def test_documented_calendars_can_be_parsed() -> None:
    found = [json.loads(block.code) for block in list_code_blocks(DOCS / "schedules.md", "json")]
    shown = [each for each in found if each.get("kind") in ("business", "dates")]
    assert len(shown) >= 3
    for each in shown:
        calendar = parse({name: value for name, value in each.items() if name != "name"})
        assert calendar.to_json()["kind"] == each["kind"]
