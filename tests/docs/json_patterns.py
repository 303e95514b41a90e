"""Comparison of responses with documented examples. `…` matches any text or any further members."""

import json
import re
from typing import Any

PLACEHOLDER = "…"


def check_match(documented: str, answer: str, language: str) -> None:
    """Fail unless `answer` matches `documented`: JSON by its members, text line after line."""
    if language == "json":
        _check_equal(json.loads(documented), json.loads(answer), "")
    else:
        _check_order(documented.splitlines(), answer.splitlines())


def _check_equal(documented: Any, actual: Any, where: str) -> None:
    if isinstance(documented, dict):
        assert isinstance(actual, dict), where
        members = {name: value for name, value in documented.items() if name != PLACEHOLDER}
        assert members.keys() <= actual.keys(), f"{where}: no {members.keys() - actual.keys()} in {actual}"
        assert PLACEHOLDER in documented or members.keys() == actual.keys(), (
            f"{where}: {actual.keys() - members.keys()} not shown"
        )
        for name, value in members.items():
            _check_equal(value, actual[name], f"{where}/{name}")
    elif isinstance(documented, list):
        assert isinstance(actual, list), where
        assert len(documented) == len(actual), f"{where}: {actual}"
        for index, value in enumerate(documented):
            _check_equal(value, actual[index], f"{where}/{index}")
    elif isinstance(documented, str) and PLACEHOLDER in documented:
        assert _matches(documented, str(actual)), f"{where}: {actual!r} instead of {documented!r}"
    else:
        assert documented == actual, f"{where}: {actual!r} instead of {documented!r}"


def _check_order(documented: list[str], actual: list[str]) -> None:
    remaining = iter(actual)
    for line in filter(None, documented):
        assert any(_matches(line, candidate) for candidate in remaining), (
            f"no line {line!r} (in this order) in {actual}"
        )


def _matches(documented: str, actual: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in documented.split(PLACEHOLDER)), actual) is not None
