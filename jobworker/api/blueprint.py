"""Strict version of flask-smorest's Blueprint.

Unknown query parameters and unexpected bodies are errors. Every problem response is documented.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import flask_smorest
import marshmallow as ma
from flask import Request, request
from webargs.flaskparser import FlaskParser
from werkzeug.routing import BaseConverter

from jobworker.api import json_body
from jobworker.api.context import get_context
from jobworker.api.fields import CodedMessage
from jobworker.api.host_check import CrossSiteRequest, UnknownHost
from jobworker.api.problems import PROBLEM_MEDIA_TYPE, MalformedBody, UnsupportedMediaType, get_status
from jobworker.domain.errors import (
    FieldError,
    InvalidCursor,
    InvalidInput,
    JobWorkerError,
    ServiceBusy,
    UnreadableRow,
    format_pointer,
)

ViewFunction = Callable[..., Any]

#: Codes and texts for marshmallow's error messages. Messages that are missing here get the code `not_allowed`.
_CODED_MESSAGES: Mapping[str, CodedMessage] = {
    "Missing data for required field.": CodedMessage("missing", "is required"),
    "Field may not be null.": CodedMessage("null", "must not be null"),
    "Unknown field.": CodedMessage("unknown_field", "is unknown"),
    "Not a valid string.": CodedMessage("wrong_type", "must be a string"),
    "Not a valid list.": CodedMessage("wrong_type", "must be an array"),
    "Not a valid mapping type.": CodedMessage("wrong_type", "must be an object"),
    "Invalid input type.": CodedMessage("wrong_type", "must be a JSON object"),
}


#: Largest body (bytes) of a view that is not `large`; a selection of 10,000 ids has some 400 kB.
_MAX_BODY_BYTES = 1024 * 1024

#: Media type of files of any content.
BINARY_MEDIA_TYPE = "application/octet-stream"

#: Maximum size (bytes) of an empty body: `{}` and white space.
_MAX_EMPTY_BODY_BYTES = 16

_UNKNOWN_BY_LOCATION: dict[str, str | None] = {"json": ma.RAISE, "query": ma.RAISE}


class ExecutionIdConverter(BaseConverter):
    """Path segment that is the id of an execution, not an action on executions."""

    regex = r"(?!(?:batch|cancel)\Z)[^/]+"
    part_isolating = True


class ScheduleNameConverter(BaseConverter):
    """Path segment that is the name or the id of a schedule, not an action on schedules."""

    regex = r"(?!preview\Z)[^/]+"
    part_isolating = True


#: Converters for routes, in addition to Werkzeug's own. A variable segment excludes the literal segments at its place:
#: otherwise `Allow` would list, and routing would choose, methods of the variable route.
URL_CONVERTERS = {"execution": ExecutionIdConverter, "schedule": ScheduleNameConverter}


class _StrictParser(FlaskParser):
    """Strict parser of bodies and query strings that raises this package's errors."""

    DEFAULT_UNKNOWN_BY_LOCATION = _UNKNOWN_BY_LOCATION

    def load_json(self, req: Request, schema: ma.Schema) -> Any:
        required = any(field.required for field in schema.load_fields.values())
        return json_body.read(req, required)

    def load_querystring(self, req: Request, schema: ma.Schema) -> Any:
        repeated = [name for name, values in req.args.lists() if len(values) > 1]
        if repeated:
            _raise_invalid_input([FieldError(name, "repeated", f"{name} is given more than once") for name in repeated])
        return req.args.to_dict()

    def handle_error(self, error: ma.ValidationError, req: Request, schema: ma.Schema, **_: Any) -> NoReturn:
        # webargs groups messages by location; an endpoint reads one location at a time.
        assert isinstance(error.messages, dict)
        [(location, messages)] = error.messages.items()
        problems = list(_flatten_messages(messages, ""))
        if location == "query":
            problems = [FieldError(problem.pointer.lstrip("/"), problem.code, problem.message) for problem in problems]
        _raise_invalid_input(problems)


class Blueprint(flask_smorest.Blueprint):
    """Routes of one resource."""

    ARGUMENTS_PARSER = _StrictParser()

    def __init__(self, name: str, import_name: str, **options: Any) -> None:
        super().__init__(name, import_name, **options)
        self._prepare_doc_cbks.append(self._prepare_problems_doc)

    def add_url_rule(
        self, rule: str, endpoint: str | None = None, view_func: ViewFunction | None = None, *args: Any, **options: Any
    ) -> None:
        """Add a route; its operationId is the name of the view function."""
        assert view_func is not None
        strict = _make_strict(view_func)
        documented = self.doc(operationId=view_func.__name__)(strict)
        super().add_url_rule(rule, endpoint, documented, *args, **options)

    def accept_query(self, schema: ma.Schema) -> Callable[[ViewFunction], ViewFunction]:
        """Declare the query parameters that the view accepts."""
        decorate: Callable[[ViewFunction], ViewFunction] = self.arguments(schema, location="query")
        return decorate

    def document_response(
        self, status: int, schema: ma.Schema | Mapping[str, Any] | None, description: str, **options: Any
    ) -> Callable[[ViewFunction], ViewFunction]:
        """Document a response. The view serializes it because dumping through a schema costs ten times as much."""
        decorate: Callable[[ViewFunction], ViewFunction] = self.response(
            status, schema, description=description, **options
        )
        return decorate

    @staticmethod
    def document_problems(*kinds: type[JobWorkerError]) -> Callable[[ViewFunction], ViewFunction]:
        """Document errors of the view in addition to those that its arguments imply."""
        return _add_documentation("problems", kinds)

    @staticmethod
    def document_headers(*described: Mapping[str, Any]) -> Callable[[ViewFunction], ViewFunction]:
        """Document request headers that the view reads."""
        return _add_documentation("request_headers", described)

    @staticmethod
    def accept_file(description: str) -> Callable[[ViewFunction], ViewFunction]:
        """Declare that the body is a file, not JSON; the view reads it with `json_body.read_file`.

        The body is documented as bytes because client generators omit operations with bodies of other types.
        """
        content = {BINARY_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
        return _add_documentation("file_body", [{"required": True, "description": description, "content": content}])

    @staticmethod
    def allow_large_body() -> Callable[[ViewFunction], ViewFunction]:
        """Allow bodies up to JOBWORKER_MAX_BODY; the number of concurrent large bodies is limited."""
        return _add_documentation("large", [True])

    @staticmethod
    def _prepare_problems_doc(doc: dict[str, Any], doc_info: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        doc.setdefault("parameters", []).extend(doc_info.get("request_headers", ()))
        # Every operation rejects unknown query parameters and unexpected bodies.
        kinds: list[type[JobWorkerError]] = [
            *doc_info.get("problems", ()),
            InvalidInput,
            UnreadableRow,
            CrossSiteRequest,
            UnknownHost,
            ServiceBusy,
            JobWorkerError,
        ]
        for file_body in doc_info.get("file_body", ()):
            doc["requestBody"] = file_body
        if "requestBody" in doc:
            kinds += [MalformedBody, UnsupportedMediaType, _BodyTooLarge]
        if any(parameter.get("name") == "cursor" for parameter in doc["parameters"]):
            kinds.append(InvalidCursor)
        # Drop flask-smorest's own error responses (by status or `default`); the problems below replace them.
        answers = {str(status) for status in doc_info.get("response", {}).get("responses", ())}
        responses = {str(status): response for status, response in doc["responses"].items() if str(status) in answers}
        for status, about in _group_by_status(kinds).items():
            responses.setdefault(str(status), _describe_problem_response(about))
        doc["responses"] = dict(sorted(responses.items()))
        return doc


def _describe_problem_response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


class _BodyTooLarge(JobWorkerError):
    """Placeholder for Werkzeug's error in the documentation."""

    code = "body_too_large"


def _group_by_status(kinds: Iterable[type[JobWorkerError]]) -> dict[int, str]:
    titles: dict[int, list[str]] = {}
    for kind in kinds:
        status, title = (413, "The body is too large") if kind is _BodyTooLarge else get_status(kind)
        titles.setdefault(status, []).append(f"{title} (`{kind.code}`)")
    return {status: "; ".join(dict.fromkeys(lines)) for status, lines in sorted(titles.items())}


def _add_documentation(key: str, values: Iterable[Any]) -> Callable[[ViewFunction], ViewFunction]:
    def decorate(view: ViewFunction) -> ViewFunction:
        documented = dict(getattr(view, "_apidoc", {}))
        documented[key] = [*documented.get(key, ()), *values]
        view._apidoc = documented  # type: ignore[attr-defined]
        return view

    return decorate


def _make_strict(view: ViewFunction) -> ViewFunction:
    """Return a view that rejects a query or body it does not declare, so that a typing error does not pass silently."""
    documentation = getattr(view, "_apidoc", {})
    locations = {parameter["in"] for parameter in documentation.get("arguments", {}).get("parameters", ())}
    takes_body = "json" in locations or "file_body" in documentation
    large = "large" in documentation

    @functools.wraps(view)
    def strict(*args: Any, **kwargs: Any) -> Any:
        if "query" not in locations and request.args:
            message = "is unknown; this resource has no query parameters"
            _raise_invalid_input([FieldError(name, "unknown_field", f"{name} {message}") for name in request.args])
        if not takes_body:
            _reject_body()
        elif not large:
            request.max_content_length = min(_MAX_BODY_BYTES, request.max_content_length or _MAX_BODY_BYTES)
        elif (request.content_length or 0) > _MAX_BODY_BYTES:
            with get_context().reserve_large_body():
                return view(*args, **kwargs)
        return view(*args, **kwargs)

    return strict


def _reject_body() -> None:
    """Raise `InvalidInput` if the request has a body; a large or chunked body is not read first."""
    announced = request.content_length or 0
    chunked = "Transfer-Encoding" in request.headers
    if chunked or announced > _MAX_EMPTY_BODY_BYTES or (announced and request.get_data().strip() not in (b"", b"{}")):
        raise InvalidInput("this request takes no body", [FieldError("", "unknown_field", "there must be no body")])


def _raise_invalid_input(problems: list[FieldError]) -> NoReturn:
    raise InvalidInput("; ".join(problem.message for problem in problems[:5]), problems[:100])


def _flatten_messages(messages: Any, path: str) -> Iterator[FieldError]:
    """Yield the messages of marshmallow's tree, each with its place."""
    if isinstance(messages, Mapping):
        for key, nested in messages.items():
            yield from _flatten_messages(nested, path if key == ma.exceptions.SCHEMA else path + format_pointer(key))
        return
    for message in messages:
        coded = message if isinstance(message, CodedMessage) else _CODED_MESSAGES.get(message)
        name = path.rpartition("/")[2] or "the body"
        if coded is None:
            yield FieldError(path, "not_allowed", f"{name}: {message}")
        else:
            yield FieldError(path, coded.code, f"{name} {coded}")
