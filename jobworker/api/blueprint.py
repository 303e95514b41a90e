"""flask-smorest's Blueprint, made strict.

Unknown query parameters, and bodies where there should be none, are errors; every problem is documented.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import flask_smorest
import marshmallow as ma
from flask import Request, request
from webargs.flaskparser import FlaskParser
from werkzeug.routing import BaseConverter

from jobworker.api import body
from jobworker.api.fields import Coded
from jobworker.api.origins import CrossSite, UnknownHost
from jobworker.api.problems import MEDIA_TYPE, MalformedBody, UnsupportedMediaType, status_of
from jobworker.api.room import room
from jobworker.domain.errors import (
    Busy,
    FieldError,
    InvalidCursor,
    InvalidInput,
    JobWorkerError,
    UnreadableRow,
    pointer,
)

View = Callable[..., Any]

#: What marshmallow says, with our codes. What is not here gets `invalid`.
_MESSAGES: Mapping[str, Coded] = {
    "Missing data for required field.": Coded("missing", "is required"),
    "Field may not be null.": Coded("null", "must not be null"),
    "Unknown field.": Coded("unknown_field", "is not known here"),
    "Not a valid string.": Coded("wrong_type", "must be a string"),
    "Not a valid list.": Coded("wrong_type", "must be an array"),
    "Not a valid mapping type.": Coded("wrong_type", "must be an object"),
    "Invalid input type.": Coded("wrong_type", "must be a JSON object"),
}


#: Largest body (bytes) of a view that is not `large`; a selection of 10,000 ids has some 400 kB.
_MOST_BODY = 1024 * 1024

#: The type of files, whatever is in them.
BINARY = "application/octet-stream"

#: What a request without a body may have in its place (bytes): `{}` and white space.
_NO_BODY = 16

_UNKNOWN: dict[str, str | None] = {"json": ma.RAISE, "query": ma.RAISE}


class ExecutionId(BaseConverter):
    """A segment of a path that is an id of an execution, not an action on executions."""

    regex = r"(?!(?:batch|cancel)\Z)[^/]+"
    part_isolating = True


class ScheduleName(BaseConverter):
    """A segment of a path that is the name or the id of a schedule, not an action on schedules."""

    regex = r"(?!preview\Z)[^/]+"
    part_isolating = True


#: What routes are written with, besides Werkzeug's own. A literal segment beside a variable one is excluded from it:
#: else `Allow` would list, and routing would choose, methods of the variable one.
CONVERTERS = {"execution": ExecutionId, "schedule": ScheduleName}


class _Parser(FlaskParser):
    """Reads bodies and queries strictly, and complains in our own errors."""

    DEFAULT_UNKNOWN_BY_LOCATION = _UNKNOWN

    def load_json(self, req: Request, schema: ma.Schema) -> Any:
        needed = any(field.required for field in schema.load_fields.values())
        return body.read(req, needed)

    def load_querystring(self, req: Request, schema: ma.Schema) -> Any:
        repeated = [name for name, values in req.args.lists() if len(values) > 1]
        if repeated:
            _refuse([FieldError(name, "repeated", f"{name} is given more than once") for name in repeated])
        return req.args.to_dict()

    def handle_error(self, error: ma.ValidationError, req: Request, schema: ma.Schema, **_: Any) -> NoReturn:
        # webargs has sorted the messages by location; an endpoint reads one location at a time.
        assert isinstance(error.messages, dict)
        [(location, messages)] = error.messages.items()
        found = list(_places(messages, ""))
        if location == "query":
            found = [FieldError(each.pointer.lstrip("/"), each.code, each.message) for each in found]
        _refuse(found)


class Blueprint(flask_smorest.Blueprint):
    """Routes about one noun."""

    ARGUMENTS_PARSER = _Parser()

    def __init__(self, name: str, import_name: str, **options: Any) -> None:
        super().__init__(name, import_name, **options)
        self._prepare_doc_cbks.append(self._prepare_problems_doc)

    def add_url_rule(
        self, rule: str, endpoint: str | None = None, view_func: View | None = None, *args: Any, **options: Any
    ) -> None:
        """Add a route, whose operation gets the name of its function."""
        assert view_func is not None
        strict = _without_surprises(view_func)
        named = self.doc(operationId=view_func.__name__)(strict)
        super().add_url_rule(rule, endpoint, named, *args, **options)

    def accept_query(self, schema: ma.Schema) -> Callable[[View], View]:
        """The view takes these query parameters."""
        decorate: Callable[[View], View] = self.arguments(schema, location="query")
        return decorate

    def document_response(
        self, status: int, schema: ma.Schema | Mapping[str, Any] | None, description: str, **options: Any
    ) -> Callable[[View], View]:
        """Describe an answer. The view writes it itself: dumping through a schema costs ten times as much."""
        decorate: Callable[[View], View] = self.response(status, schema, description=description, **options)
        return decorate

    @staticmethod
    def document_problems(*kinds: type[JobWorkerError]) -> Callable[[View], View]:
        """Describe errors that the view may answer besides those that its arguments imply."""
        return _documented("problems", kinds)

    @staticmethod
    def document_headers(*described: Mapping[str, Any]) -> Callable[[View], View]:
        """Describe request headers that the view looks at."""
        return _documented("request_headers", described)

    @staticmethod
    def accept_file(description: str) -> Callable[[View], View]:
        """The view reads the body itself (`body.file`): a file, not JSON.

        It is described as bytes: client generators leave out operations whose bodies are of other types.
        """
        content = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
        return _documented("file_body", [{"required": True, "description": description, "content": content}])

    @staticmethod
    def allow_large_body() -> Callable[[View], View]:
        """The view takes bodies up to JOBWORKER_MAX_BODY, a few of them at a time."""
        return _documented("large", [True])

    @staticmethod
    def _prepare_problems_doc(doc: dict[str, Any], doc_info: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        doc.setdefault("parameters", []).extend(doc_info.get("request_headers", ()))
        # Any operation refuses query parameters and bodies that it does not know.
        kinds: list[type[JobWorkerError]] = [
            *doc_info.get("problems", ()),
            InvalidInput,
            UnreadableRow,
            CrossSite,
            UnknownHost,
            Busy,
            JobWorkerError,
        ]
        for told in doc_info.get("file_body", ()):
            doc["requestBody"] = told
        if "requestBody" in doc:
            kinds += [MalformedBody, UnsupportedMediaType, _BodyTooLarge]
        if any(parameter.get("name") == "cursor" for parameter in doc["parameters"]):
            kinds.append(InvalidCursor)
        # flask-smorest's own idea of errors, by number or by default, makes room for ours.
        answers = {str(status) for status in doc_info.get("response", {}).get("responses", ())}
        responses = {str(status): each for status, each in doc["responses"].items() if str(status) in answers}
        for status, about in _by_status(kinds).items():
            responses.setdefault(str(status), _problem(about))
        doc["responses"] = dict(sorted(responses.items()))
        return doc


def _problem(about: str) -> dict[str, Any]:
    return {"description": about, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


class _BodyTooLarge(JobWorkerError):
    """Stands for Werkzeug's error in the documentation."""

    code = "body_too_large"


def _by_status(kinds: Iterable[type[JobWorkerError]]) -> dict[int, str]:
    found: dict[int, list[str]] = {}
    for kind in kinds:
        status, title = (413, "The body is too large") if kind is _BodyTooLarge else status_of(kind)
        found.setdefault(status, []).append(f"{title} (`{kind.code}`)")
    return {status: "; ".join(dict.fromkeys(lines)) for status, lines in sorted(found.items())}


def _documented(key: str, values: Iterable[Any]) -> Callable[[View], View]:
    def decorate(view: View) -> View:
        documented = dict(getattr(view, "_apidoc", {}))
        documented[key] = [*documented.get(key, ()), *values]
        view._apidoc = documented  # type: ignore[attr-defined]
        return view

    return decorate


def _without_surprises(view: View) -> View:
    """The view, refusing a query or a body if it was declared with none: a typing error must not pass silently."""
    described = getattr(view, "_apidoc", {})
    locations = {each["in"] for each in described.get("arguments", {}).get("parameters", ())}
    takes_body = "json" in locations or "file_body" in described
    large = "large" in described

    @functools.wraps(view)
    def strict(*args: Any, **kwargs: Any) -> Any:
        if "query" not in locations and request.args:
            message = "is not known here; this resource has no query parameters"
            _refuse([FieldError(name, "unknown_field", f"{name} {message}") for name in request.args])
        if not takes_body:
            _refuse_body()
        elif not large:
            request.max_content_length = min(_MOST_BODY, request.max_content_length or _MOST_BODY)
        elif (request.content_length or 0) > _MOST_BODY:
            with room().reserve_large_body():
                return view(*args, **kwargs)
        return view(*args, **kwargs)

    return strict


def _refuse_body() -> None:
    """Refuse a body where there is none; one that is announced is not waited for."""
    announced = request.content_length or 0
    chunked = "Transfer-Encoding" in request.headers
    if chunked or announced > _NO_BODY or (announced and request.get_data().strip() not in (b"", b"{}")):
        raise InvalidInput("this request takes no body", [FieldError("", "unknown_field", "there must be no body")])


def _refuse(found: list[FieldError]) -> NoReturn:
    raise InvalidInput("; ".join(each.message for each in found[:5]), found[:100])


def _places(messages: Any, where: str) -> Iterator[FieldError]:
    """marshmallow's tree of messages as a list of places."""
    if isinstance(messages, Mapping):
        for key, below in messages.items():
            yield from _places(below, where if key == ma.exceptions.SCHEMA else where + pointer(key))
        return
    for message in messages:
        coded = message if isinstance(message, Coded) else _MESSAGES.get(message)
        name = where.rpartition("/")[2] or "the body"
        if coded is None:
            yield FieldError(where, "not_allowed", f"{name}: {message}")
        else:
            yield FieldError(where, coded.code, f"{name} {coded}")
