"""Whether an answer is what the documentation shows. `…` stands for whatever the answer has there."""

import json
import re
from typing import Any

REST = "…"


def must_match(shown: str, answer: str, language: str) -> None:
    """Fail unless `answer` is as `shown`: JSON by its members, text line after line."""
    if language == "json":
        _must_equal(json.loads(shown), json.loads(answer), "")
    else:
        _must_come_in_order(shown.splitlines(), answer.splitlines())


def _must_equal(shown: Any, real: Any, where: str) -> None:
    if isinstance(shown, dict):
        assert isinstance(real, dict), where
        members = {name: value for name, value in shown.items() if name != REST}
        assert members.keys() <= real.keys(), f"{where}: no {members.keys() - real.keys()} in {real}"
        assert REST in shown or members.keys() == real.keys(), f"{where}: {real.keys() - members.keys()} not shown"
        for name, value in members.items():
            _must_equal(value, real[name], f"{where}/{name}")
    elif isinstance(shown, list):
        assert isinstance(real, list), where
        assert len(shown) == len(real), f"{where}: {real}"
        for index, value in enumerate(shown):
            _must_equal(value, real[index], f"{where}/{index}")
    elif isinstance(shown, str) and REST in shown:
        assert _fits(shown, str(real)), f"{where}: {real!r} instead of {shown!r}"
    else:
        assert shown == real, f"{where}: {real!r} instead of {shown!r}"


def _must_come_in_order(shown: list[str], real: list[str]) -> None:
    left = iter(real)
    for line in filter(None, shown):
        assert any(_fits(line, candidate) for candidate in left), f"no line {line!r} (in this order) in {real}"


def _fits(shown: str, real: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in shown.split(REST)), real) is not None
