"""Parsers of command-line arguments."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from jobworker.domain import durations
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.json import json_values
from jobworker.domain.json.json_values import UnacceptableValue


def parse_parameters(pairs: Iterable[str], document: str | None, accepted: Sequence[Parameter]) -> dict[str, Any]:
    """Return the parameters of `key=value` pairs, which take precedence over a JSON object.

    Values are parsed by the types of the task's parameters.
    """
    types = {parameter.name: parameter.type for parameter in accepted}
    values = parse_object(document, "--json") if document else {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not (separator and name):
            raise InvalidInput(f"{pair} must look like name=value", [FieldError("/parameters", "invalid", pair)])
        values[name] = text if types.get(name) == "string" else _parse_value(text, name)
    return values


def parse_object(document: str, option: str) -> dict[str, Any]:
    """Return the JSON object that was given for an option; raises `InvalidInput`."""
    try:
        value = json_values.parse(document)
    except UnacceptableValue as error:
        raise InvalidInput(f"{option} contains {error}") from None
    except ValueError as error:
        raise InvalidInput(f"{option} is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise InvalidInput(f'{option} must be an object such as {{"days": 90}}')
    return dict(value)


def _parse_value(text: str, name: str) -> Any:
    """Return the value of a JSON text, else the text itself; the check of the parameters decides whether it fits."""
    try:
        return json_values.parse(text)
    except UnacceptableValue as error:
        raise InvalidInput(f"{name} contains {error}") from None
    except ValueError:
        return text


class DateTimeType(click.ParamType[dt.datetime]):
    """An RFC 3339 time, with its offset."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        try:
            time = dt.datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value} must look like 2030-01-31T12:00:00Z", param, ctx)
        if time.tzinfo is None:
            self.fail(f"{value} needs an offset from UTC: {value}Z or {value}+01:00", param, ctx)
        return time


class DurationType(click.ParamType[float]):
    """Seconds, or an ISO 8601 duration."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return durations.parse(_parse_value(value, "the duration"))
        except ValueError as error:
            self.fail(f"{value} {error}", param, ctx)
