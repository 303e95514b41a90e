"""`http.request`: one HTTP request, and its response."""

import contextlib
import datetime as dt
import email.utils
import json as json_text
from collections.abc import Iterator
from typing import Any, Literal

import redis
import structlog
from urllib3.exceptions import HTTPError

from jobworker.clock import Clock, SystemClock
from jobworker.declare import Abort, Context, Retry, Snooze, job
from jobworker.domain.jobs.circuit_breaker import CircuitBreakerPolicy
from jobworker.domain.jobs.egress import EgressPolicy
from jobworker.transport.circuit_breaker import CircuitBreaker
from jobworker.worker.builtin import http_exchange
from jobworker.worker.builtin.http_exchange import MAX_BODY_SIZE, HttpRequest, HttpResponse, RequestNotAllowed
from jobworker.worker.celery.task import JobTask

logger = structlog.get_logger(__name__)

#: Maximum length of a response body that an error quotes (characters).
_MAX_QUOTED_LENGTH = 500

#: Headers with which a request could be taken for another one.
_FORBIDDEN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})

#: Maximum wait that a server can request (s).
_MAX_RETRY_AFTER_SECONDS = 24 * 3600.0

#: Statuses that count as failures of the target, and statuses with which it may request a wait.
_TOO_MANY_REQUESTS = 429
_FAILURE_STATUSES = frozenset({_TOO_MANY_REQUESTS, *range(500, 600)})
_RETRY_AFTER_STATUSES = frozenset({_TOO_MANY_REQUESTS, 503})


class RequestFailed(Exception):
    """No response was received: no connection, no such host, a timeout, an invalid response."""


class UnexpectedStatus(Exception):
    """A response was received, and its status is not one of `success_codes`."""


@job(name="http.request", bind=True)
def http_request(  # noqa: PLR0913  the parameters of a request
    self: Any,
    context: Context,
    url: str,
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET",
    headers: dict[str, str] | None = None,
    body: str | None = None,
    json: Any = None,
    timeout: float = 30.0,
    success_codes: str = "200-299",
) -> dict[str, Any]:
    """Send an HTTP request; the result is {"status", "headers", "body", "complete"}.

    `body` is text, `json` is any JSON value; `timeout` is the limit (s) of the whole exchange, from the lookup of the
    host name over redirects to the end of the response. `success_codes` are statuses and ranges: "200-299,304". After a
    429 or 503 with Retry-After the request is retried at that time. After several failures in a row of a host and port,
    executions of the job do not contact it for a while: they are snoozed and use up no attempt. `circuit` of the job's
    definition sets the number of failures and the pause.
    """
    target = _parse_target(url)
    expected = _parse_codes(success_codes)
    content, kind = _encode_content(body, json)
    if not 0 < timeout <= 3600:
        raise Abort("timeout must be more than 0 and at most 3600 seconds")
    egress = EgressPolicy(JobTask.get_job_runner().settings.egress)
    circuit = _TargetCircuit(context.job, target, self.get_job_circuit())
    circuit.check_closed(timeout)
    for name in headers or {}:
        if str(name).lower() in _FORBIDDEN_HEADERS:
            raise Abort(f"headers must not have {name}: it follows from url and body")
    sent_headers = {**kind, **{str(name): str(value) for name, value in (headers or {}).items()}}
    try:
        response = http_exchange.send_request(HttpRequest(method, url, sent_headers, content), timeout, egress)
    except RequestNotAllowed as error:
        raise Abort(f"{method} {target}: {error}") from None
    except ValueError as error:
        # The text of the error may quote a header, which may be secret.
        raise Abort(f"{method} {target} cannot be sent: {type(error).__name__} in url, headers or body") from None
    except (HTTPError, OSError) as error:
        circuit.record_failure()
        raise RequestFailed(f"{method} {target}: {_describe_error(error)}") from None
    circuit.record_failure() if response.status in _FAILURE_STATUSES else circuit.record_success()
    context.log.info("%s %s: %d", method, target, response.status)
    if response.status in expected:
        return _make_result(response)
    raise _make_status_error(response, method, target)


# --- request ------------------------------------------------------------------------------------------------------


def _parse_target(url: str) -> str:
    try:
        return http_exchange.parse_origin(url)
    except ValueError as error:
        raise Abort(f"url is invalid: {error}") from None


def _parse_codes(text: str) -> frozenset[int]:
    codes: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or len(first) > 3 or len(last) > 3:
            raise Abort(f'success_codes must be statuses and ranges such as "200-299,304", not {text!r:.100}')
        codes.update(range(int(first), int(last or first) + 1))
    return frozenset(codes)


def _encode_content(body: str | None, json: Any) -> tuple[bytes | None, dict[str, str]]:
    if body is not None and json is not None:
        raise Abort("give body or json, not both")
    if json is not None:
        return json_text.dumps(json).encode(), {"Content-Type": "application/json"}
    return (None if body is None else body.encode()), {}


def _describe_error(error: BaseException) -> str:
    """Return the reason of an error, without the text that the connection pool adds."""
    reason = getattr(error, "reason", None)
    reason = reason if isinstance(reason, BaseException) else error
    value = getattr(reason, "_message", None) or " ".join(str(argument) for argument in reason.args)
    return value or type(reason).__name__


# --- response -----------------------------------------------------------------------------------------------------


def _make_result(response: HttpResponse) -> dict[str, Any]:
    text, complete = _decode_body(response), response.complete
    while len(json_text.dumps(text)) > MAX_BODY_SIZE:
        text, complete = text[: len(text) * 3 // 4], False
    return {"status": response.status, "headers": response.headers, "body": text, "complete": complete}


def _decode_body(response: HttpResponse) -> str:
    # The declared charset is ignored: nearly all text is UTF-8, and other text can still be read in part.
    return response.body.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _make_status_error(response: HttpResponse, method: str, target: str) -> Exception:
    error = UnexpectedStatus(
        f"{method} {target} responded with {response.status}: {_decode_body(response)[:_MAX_QUOTED_LENGTH]}"
    )
    wait = _parse_retry_after(response, SystemClock()) if response.status in _RETRY_AFTER_STATUSES else None
    if wait is None:
        return error
    retry = Retry(wait, f"{target} responded with {response.status} and requests a retry after {wait:g} s")
    retry.__cause__ = error
    return retry


def _parse_retry_after(response: HttpResponse, clock: Clock) -> float | None:
    """Return the wait (s) that the server requests; None if it requests none."""
    value = next((value for name, value in response.headers.items() if name.lower() == "retry-after"), "").strip()
    if value.isdecimal():
        return min(float(value), _MAX_RETRY_AFTER_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return min(max(0.0, (moment - clock.now()).total_seconds()), _MAX_RETRY_AFTER_SECONDS)


# --- circuit breaker ----------------------------------------------------------------------------------------------


class _TargetCircuit:
    """The circuit of a job and a target. Without Redis it does not exist, and each execution sends its request."""

    def __init__(self, job: str, target: str, policy: CircuitBreakerPolicy) -> None:
        self._target = target
        self._name = f"{job} {target}"
        self._policy = policy
        self._circuits = CircuitBreaker(JobTask.get_job_runner().redis_connection.client)

    def check_closed(self, timeout: float) -> None:
        """Raise `Snooze` if the circuit is open."""
        with _ignore_redis_errors():
            wait = self._circuits.acquire_permission(self._name, timeout * 2)
            if wait > 0:
                raise Snooze(wait, f"the circuit of {self._target} is open: it failed several times in a row")

    def record_success(self) -> None:
        with _ignore_redis_errors():
            self._circuits.record_success(self._name)

    def record_failure(self) -> None:
        with _ignore_redis_errors():
            self._circuits.record_failure(self._name, self._policy.failures, self._policy.pause)


@contextlib.contextmanager
def _ignore_redis_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        logger.warning("circuit_unknown", error=str(error))
