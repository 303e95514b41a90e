"""Parameters: derived from signatures, and checked at submission."""

import datetime as dt
import enum
import json
from typing import Any, Literal, Optional

import pytest

from jobworker.domain.errors import InvalidParameters
from jobworker.domain.jobs import parameters
from jobworker.domain.jobs.parameters import VARIADIC, Parameter


class Format(enum.Enum):
    """An enumeration in a user's signature."""

    CSV = "csv"
    JSON = "json"


class InjectedTool:
    """The type of a parameter that the worker injects."""


def export(tool: InjectedTool, user_id: str, format: Literal["csv", "json"] = "csv", email: str | None = None) -> None:
    """Do nothing, with a signature as users write them."""


def test_parameters_derived_from_signature() -> None:
    assert parameters.from_signature(export, injected_types=[InjectedTool]) == (
        Parameter("user_id", "string"),
        Parameter("format", "string", required=False, default="csv", choices=("csv", "json")),
        Parameter("email", "string", required=False, default=None, nullable=True),
    )


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, Parameter("it", "integer")),
        (float, Parameter("it", "number")),
        (bool, Parameter("it", "boolean")),
        (list[int], Parameter("it", "array")),
        (tuple[int, ...], Parameter("it", "array")),
        (dict[str, int], Parameter("it", "object")),
        (Any, Parameter("it", "any")),
        (int | str, Parameter("it", "any")),
        (object, Parameter("it", "any")),
        (Optional[int], Parameter("it", "integer", nullable=True)),  # noqa: UP045 - the old spelling must work too
        (Format, Parameter("it", "string", choices=("csv", "json"))),
        (Format | None, Parameter("it", "string", choices=("csv", "json"), nullable=True)),
        (Literal["a", None], Parameter("it", "string", choices=("a",), nullable=True)),
        (Literal[None, 1], Parameter("it", "integer", choices=(1,), nullable=True)),
        (Literal["auto", 1], Parameter("it", "any", choices=("auto", 1))),
    ],
)
def test_annotation_converted_to_parameter_type(hint: Any, expected: Parameter) -> None:
    def job(it: Any) -> None: ...

    job.__annotations__["it"] = hint
    assert parameters.from_signature(job) == (expected,)


def test_unannotated_parameters_accept_any_type() -> None:
    def job(first, second=None, *rest, third=Format.CSV, **others):  # type: ignore[no-untyped-def]
        """Do nothing, with a signature without annotations."""

    assert parameters.from_signature(job) == (
        Parameter("first"),
        Parameter("second", required=False, nullable=True),
        Parameter("third", required=False, default="csv"),
        VARIADIC,
    )


def test_parameter_json_round_trip() -> None:
    for parameter in (*parameters.from_signature(export, [InjectedTool]), VARIADIC):
        assert Parameter.from_json(json.loads(json.dumps(parameter.to_json()))) == parameter


ACCEPTED = (
    Parameter("user_id", "string"),
    Parameter("format", "string", required=False, default="csv", choices=("csv", "json")),
    Parameter("pages", "integer", required=False, default=1, choices=(1, 2)),
    Parameter("email", "string", required=False, nullable=True),
    Parameter("ratio", "number", required=False),
    Parameter("options", "object", required=False),
    Parameter("extra", "any", required=False),
    Parameter("list/of~all", "array", required=False),
)


@pytest.mark.parametrize(
    "values",
    [
        {"user_id": "u"},
        {"user_id": "", "format": "json", "pages": 2, "email": None, "ratio": 1, "options": {}, "extra": None},
        {"user_id": "u", "ratio": 0.5, "options": {"deep": [{"x": 1.5}]}, "extra": [1, "two", None]},
    ],
)
def test_valid_parameters_pass_unchanged(values: dict[str, Any]) -> None:
    assert parameters.check(ACCEPTED, values) == values


@pytest.mark.parametrize(
    ("values", "pointer", "code"),
    [
        ({}, "/parameters/user_id", "missing_parameter"),
        ({"user_id": None}, "/parameters/user_id", "wrong_type"),
        ({"user_id": 7}, "/parameters/user_id", "wrong_type"),
        ({"user_id": "u", "format": "xml"}, "/parameters/format", "not_allowed"),
        ({"user_id": "u", "pages": True}, "/parameters/pages", "wrong_type"),
        ({"user_id": "u", "pages": 1.0}, "/parameters/pages", "wrong_type"),
        ({"user_id": "u", "pages": 3}, "/parameters/pages", "not_allowed"),
        ({"user_id": "u", "ratio": "0.5"}, "/parameters/ratio", "wrong_type"),
        ({"user_id": "u", "ratio": float("nan")}, "/parameters/ratio", "not_kept"),
        ({"user_id": "u", "extra": float("inf")}, "/parameters/extra", "not_kept"),
        ({"user_id": "u", "options": {"deep": [{"x": -float("inf")}]}}, "/parameters/options/deep/0/x", "not_kept"),
        ({"user_id": "u\0"}, "/parameters/user_id", "not_kept"),
        ({"user_id": "u", "pages": 2**70}, "/parameters/pages", "not_kept"),
        ({"user_id": "u", "extra": {"__type__": "uuid", "__value__": "zz"}}, "/parameters/extra", "not_kept"),
        ({"__type__": "uuid", "__value__": "zz"}, "/parameters", "not_kept"),
        ({"user_id": "u", "color": "red"}, "/parameters/color", "unknown_parameter"),
        ({"user_id": "u", "list/of~all": 1}, "/parameters/list~1of~0all", "wrong_type"),
        ({"user_id": "u", "a/b": 1}, "/parameters/a~1b", "unknown_parameter"),
    ],
)
def test_invalid_parameter_rejected_with_pointer(values: dict[str, Any], pointer: str, code: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        parameters.check(ACCEPTED, values)
    assert [(error.pointer, error.code) for error in caught.value.errors] == [(pointer, code)]
    assert caught.value.errors[0].message in caught.value.detail


def test_parameter_problems_all_reported() -> None:
    with pytest.raises(InvalidParameters) as caught:
        parameters.check(ACCEPTED, {"format": "xml", "color": "red", "ratio": "x"})
    assert {error.code for error in caught.value.errors} == {
        "missing_parameter",
        "not_allowed",
        "unknown_parameter",
        "wrong_type",
    }


def test_variadic_task_accepts_unlisted_names() -> None:
    assert parameters.check([Parameter("a"), VARIADIC], {"a": 1, "b": 2}) == {"a": 1, "b": 2}


def test_very_deep_parameter_rejected_without_recursion_error() -> None:
    deep: Any = float("nan")
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InvalidParameters):
        parameters.check([Parameter("a")], {"a": deep})


DAY = dt.date(2026, 1, 1)


class UnprintableValue(enum.Enum):
    """An enumeration whose member JSON cannot represent."""

    POINT = (1, object())


def test_non_json_defaults_and_choices_omitted() -> None:
    def run(
        day: Any = dt.date(2026, 1, 1),
        large: int = 2**70,
        point: UnprintableValue = UnprintableValue.POINT,
        rows: Any = (1,),
    ) -> None:
        """Do nothing, with defaults that JSON does not have."""

    accepted = parameters.from_signature(run)
    assert [(parameter.name, parameter.default, parameter.choices, parameter.required) for parameter in accepted] == [
        ("day", None, None, False),
        ("large", None, None, False),
        ("point", None, None, False),
        ("rows", (1,), None, False),
    ]
