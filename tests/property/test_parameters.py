"""Parameter checks of arbitrary JSON: accepted or refused with a place, and never a value that JSON cannot carry."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobworker.domain.errors import InvalidParameters
from jobworker.domain.jobs import parameters
from jobworker.domain.jobs.parameters import VARIADIC, Parameter


def json_values(allow_nan: bool) -> st.SearchStrategy[Any]:
    """Return a strategy of values that a JSON parser may return; Python's parser also returns NaN and Infinity."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=allow_nan, allow_infinity=allow_nan)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )


JSON = json_values(allow_nan=True)
NAMES = st.sampled_from(["a", "b", "c", "a/b", ""])
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "any"])
PARAMETERS = st.builds(
    Parameter, name=NAMES, type=TYPES, required=st.booleans(), nullable=st.booleans(), choices=st.none()
) | st.just(VARIADIC)


def get_verdict(accepted: list[Parameter], offered: dict[str, Any]) -> dict[str, Any] | InvalidParameters:
    try:
        return parameters.check(accepted, offered)
    except InvalidParameters as refusal:
        return refusal


@given(st.lists(PARAMETERS, unique_by=lambda parameter: parameter.name), st.dictionaries(NAMES, JSON))
def test_parameters_accepted_or_rejected_with_pointer(accepted: list[Parameter], offered: dict[str, Any]) -> None:
    verdict = get_verdict(accepted, offered)
    if isinstance(verdict, InvalidParameters):
        assert verdict.errors
        assert all(error.pointer.startswith("/parameters/") for error in verdict.errors)
    else:
        names = {parameter.name for parameter in accepted}
        assert json.loads(json.dumps(verdict, allow_nan=False)) == offered
        assert VARIADIC.name in names or set(offered) <= names
        assert all(parameter.name in offered for parameter in accepted if parameter.required)


@given(JSON | st.sampled_from([1, 1.0, True, 0, 0.0, False, "x"]))
def test_choices_compare_by_type_and_value(value: Any) -> None:
    verdict = get_verdict([Parameter("one", choices=(1, "x", False))], {"one": value})
    listed = value == "x" or value is False or (value == 1 and type(value) is int)
    assert isinstance(verdict, dict) is (listed or value is None)


@given(st.builds(Parameter, name=NAMES, type=TYPES, default=json_values(allow_nan=False)))
def test_parameter_json_round_trip(parameter: Parameter) -> None:
    assert Parameter.from_json(json.loads(json.dumps(parameter.to_json()))) == parameter
