"""The calendars in the documentation are valid."""

import json

from jobworker.domain.calendars.calendar_parser import parse
from tests.docs.markdown import DOCS, list_code_blocks


def test_documented_calendars_can_be_parsed() -> None:
    examples = [json.loads(block.code) for block in list_code_blocks(DOCS / "schedules.md", "json")]
    calendar_examples = [example for example in examples if example.get("kind") in ("business", "dates")]
    assert len(calendar_examples) >= 3
    for example in calendar_examples:
        calendar = parse({name: value for name, value in example.items() if name != "name"})
        assert calendar.to_json()["kind"] == example["kind"]
