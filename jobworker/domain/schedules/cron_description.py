"""Cron expressions in plain English: cronsim's words, where they say what people mean by them.

It joins a day of the month and a day of the week by "and" where either is enough, calls every ten minutes "every 10th
minute of every hour", and writes 31th.
"""

import re

from cronsim.explain import ORDINALS, Expression

from jobworker.domain.schedules.rules.cron import expand_nickname

_ORDINAL_WORDS = {word: number for number, word in ORDINALS.items() if number > 1}

_STEP = re.compile(
    rf"every (?:(?P<word>{'|'.join(_ORDINAL_WORDS)})|(?P<number>\d+)th) (?P<unit>minute|second)"
    r"(?P<whole> of every (?P<period>hour|minute))?"
)
_ORDINAL = re.compile(r"\b(\d+)th\b")


def describe_cron(expression: str) -> str:
    """When it is due: `every 15 minutes from 09:00 through 09:59 on Monday through Friday`."""
    read = Expression(expand_nickname(expression).upper().split())
    text = read.explain()
    if not (read.day_and or read.day.star or read.dow.star):
        in_months = "" if read.month.star else ","
        text = text.replace(f"{read.day} and {read.dow}", f"either {read.day} or {read.dow}{in_months}")
    return _ORDINAL.sub(
        lambda found: format_ordinal(int(found[1])), _STEP.sub(_describe_step, text[0].lower() + text[1:])
    )


def format_ordinal(number: int) -> str:
    """`1st`, `12th`, `22nd`; of a number below 100."""
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _describe_step(found: re.Match[str]) -> str:
    number = _ORDINAL_WORDS[found["word"]] if found["word"] else int(found["number"])
    text = f"every {number} {found['unit']}s"
    # What does not divide the hour begins anew with each: 0, 7, … 56, 0.
    return text + (f" from the start of every {found['period']}" if found["whole"] and 60 % number else "")
