"""What people type, as the values that it stands for."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from jobworker.domain import durations, json_values
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.json_values import Unacceptable
from jobworker.domain.parameters import Parameter


def parameters(pairs: Iterable[str], document: str | None, accepted: Sequence[Parameter]) -> dict[str, Any]:
    """`key=value` pairs laid over a JSON object; values are read as the types of the task's parameters say."""
    types = {parameter.name: parameter.type for parameter in accepted}
    given = object_of(document, "--json") if document else {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not (found and name):
            raise InvalidInput(f"{pair} must look like name=value", [FieldError("/parameters", "invalid", pair)])
        given[name] = text if types.get(name) == "string" else _value(text, name)
    return given


def object_of(document: str, option: str) -> dict[str, Any]:
    """The JSON object that an option was given; raises `InvalidInput`."""
    try:
        read = json_values.parse(document)
    except Unacceptable as error:
        raise InvalidInput(f"{option} holds {error}") from None
    except ValueError as error:
        raise InvalidInput(f"{option} is not JSON: {error}") from None
    if not isinstance(read, Mapping):
        raise InvalidInput(f'{option} must be an object such as {{"days": 90}}')
    return dict(read)


def _value(text: str, name: str) -> Any:
    """JSON, or else the text itself: the check of the parameters says whether it fits."""
    try:
        return json_values.parse(text)
    except Unacceptable as error:
        raise InvalidInput(f"{name} holds {error}") from None
    except ValueError:
        return text


class Moment(click.ParamType[dt.datetime]):
    """An RFC 3339 time, with its offset."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value} must look like 2030-01-31T12:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value} needs an offset from UTC: {value}Z or {value}+01:00", param, ctx)
        return moment


class Duration(click.ParamType[float]):
    """Seconds, or an ISO 8601 duration."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return durations.parse(_value(value, "the duration"))
        except ValueError as error:
            self.fail(f"{value} {error}", param, ctx)
