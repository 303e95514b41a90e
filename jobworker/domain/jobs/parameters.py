"""Parameters of tasks: read from the signature, stored as JSON, and checked at submission."""

import enum
import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jobworker.domain.errors import FieldError, InvalidParameters, format_pointer
from jobworker.domain.json import json_values

#: Checks of Python values by the JSON name of the type.
_TYPE_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "any": lambda value: True,
}
_JSON_TYPE_NAMES: Mapping[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", list: "array", tuple: "array",
    dict: "object", Any: "any", inspect.Parameter.empty: "any",
}  # fmt: skip

#: Maximum length of the serialized parameters of one execution (bytes).
MAX_PARAMETERS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a task.

    `type` is a JSON type name or `any`; `choices` lists the allowed values; `nullable` allows null.
    """

    name: str
    type: str = "any"
    required: bool = True
    default: Any = None
    choices: tuple[Any, ...] | None = None
    nullable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the API returns and heartbeats contain."""
        described = asdict(self)
        described["choices"] = list(self.choices) if self.choices is not None else None
        return described

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "Parameter":
        """Create a parameter from the output of `to_json`."""
        choices = described.get("choices")
        return cls(**{**described, "choices": tuple(choices) if choices is not None else None})


#: The entry for `**kwargs` in a parameter list: other names are allowed.
VARIADIC = Parameter(name="**", required=False)


def from_signature(function: Callable[..., Any], injected_types: Iterable[type] = ()) -> tuple[Parameter, ...]:
    """Return the parameters of a job function, without those annotated with one of `injected_types`."""
    hidden = tuple(injected_types)
    hints = get_annotations(function, hidden)
    accepted = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name, inspect.Parameter.empty)
        if parameter.kind is parameter.VAR_KEYWORD:
            accepted.append(VARIADIC)
        elif parameter.kind is not parameter.VAR_POSITIONAL and hint not in hidden:
            accepted.append(_describe_parameter(name, hint, parameter.default))
    return tuple(accepted)


def get_annotations(function: Callable[..., Any], hidden_types: Collection[type] = ()) -> dict[str, Any]:
    """Return the annotations of a function by parameter.

    A name that exists only for type checkers (`if TYPE_CHECKING:`) is replaced by the class in `hidden_types` that has
    this name, or by `Any`.
    """
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001  an annotation may be any expression
        return dict(
            _evaluate_annotations_one_by_one(
                inspect.unwrap(function), {hidden_type.__name__: hidden_type for hidden_type in hidden_types}
            )
        )


def _evaluate_annotations_one_by_one(
    function: Callable[..., Any], hidden_types: Mapping[str, type]
) -> Iterator[tuple[str, Any]]:
    names = {**hidden_types, **getattr(function, "__globals__", {})}
    for parameter, written in inspect.get_annotations(function).items():
        alone: Any = types.SimpleNamespace(__annotations__={parameter: written})
        try:
            yield parameter, typing.get_type_hints(alone, names)[parameter]
        except Exception:  # noqa: BLE001  as above
            yield parameter, hidden_types.get(str(written).rpartition(".")[2], Any)


def _describe_parameter(name: str, hint: Any, default: Any) -> Parameter:
    required = default is inspect.Parameter.empty
    choices: tuple[Any, ...] | None = None
    hint, nullable = _strip_none(hint)
    if typing.get_origin(hint) is typing.Literal:
        choices = tuple(choice for choice in typing.get_args(hint) if choice is not None)
        nullable = nullable or None in typing.get_args(hint)
        hint = _find_common_type(choices)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        choices = tuple(member.value for member in hint)
        hint = _find_common_type(choices)
    json_name = _JSON_TYPE_NAMES.get(typing.get_origin(hint) or hint, "any")
    shown = None if required else default.value if isinstance(default, enum.Enum) else default
    # A default that JSON cannot represent is left to the code, which applies its own defaults.
    shown, choices = (value if _is_json_value(value) else None for value in (shown, choices))
    return Parameter(name, json_name, required, shown, choices, nullable or (not required and default is None))


def _is_json_value(value: Any) -> bool:
    try:
        json_values.check(value)
    except json_values.UnacceptableValue:
        return False
    return True


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    nullable = len(members) < len(typing.get_args(hint))
    return (members[0] if len(members) == 1 else Any), nullable


def _find_common_type(choices: Iterable[Any]) -> Any:
    kinds = {type(choice) for choice in choices}
    return kinds.pop() if len(kinds) == 1 else Any


def accept_any_value(accepted: Sequence[Parameter], names: Collection[str]) -> Sequence[Parameter]:
    """Return the parameters with any value allowed for those in `names`."""
    return [
        replace(parameter, type="any", choices=None) if parameter.name in names else parameter for parameter in accepted
    ]


def check(
    accepted: Sequence[Parameter], values: Mapping[str, Any], where: str = "/parameters", allow_tagged: bool = False
) -> dict[str, Any]:
    """Return `values` if the task accepts them. Raises `InvalidParameters` with every problem.

    Defaults are not filled in: the code that runs applies its own. For `allow_tagged` see `json_values.check`.
    """
    try:
        # All values are checked together: kombu might decode an object of two names that are harmless alone.
        json_values.check(dict(values), allow_tagged)
    except json_values.UnacceptableValue as error:
        message = f"the parameters contain {error}"
        raise InvalidParameters(message, [FieldError(where + error.pointer, "not_kept", message)]) from None
    parameters_by_name = {parameter.name: parameter for parameter in accepted}
    problems = [
        FieldError(
            where + format_pointer(name), "unknown_parameter", _describe_unknown_parameter(name, parameters_by_name)
        )
        for name in values
        if name not in parameters_by_name and VARIADIC.name not in parameters_by_name
    ]
    for parameter in accepted:
        if parameter.name in values:
            problems.extend(_validate_value(parameter, values[parameter.name], where + format_pointer(parameter.name)))
        elif parameter.required:
            message = f"{parameter.name} ({parameter.type}) is required"
            problems.append(FieldError(where + format_pointer(parameter.name), "missing_parameter", message))
    if problems:
        raise InvalidParameters("; ".join(problem.message for problem in problems), problems)
    return dict(values)


def _describe_unknown_parameter(name: str, parameters_by_name: Mapping[str, Parameter]) -> str:
    return f"{name} is not a parameter of this task; it accepts {', '.join(parameters_by_name) or 'none'}"


def _validate_value(parameter: Parameter, value: Any, pointer: str) -> Iterable[FieldError]:
    if value is None and (parameter.nullable or parameter.type == "any"):
        return
    if not _TYPE_CHECKS[parameter.type](value):
        message = f"{parameter.name} must be of type {parameter.type}, not {_get_json_type_name(value)}"
        yield FieldError(pointer, "wrong_type", message)
    elif parameter.choices is not None and not any(
        value == choice and type(value) is type(choice) for choice in parameter.choices
    ):
        allowed = ", ".join(json.dumps(choice) for choice in parameter.choices)
        yield FieldError(pointer, "not_allowed", f"{parameter.name} must be one of {allowed}")


def _get_json_type_name(value: Any) -> str:
    if value is None:
        return "null"
    return _JSON_TYPE_NAMES.get(type(value), type(value).__name__)
