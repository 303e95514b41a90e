"""`http.request`: one HTTP request, and what came back."""

import contextlib
import datetime as dt
import email.utils
import json as json_text
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import redis
import structlog
import urllib3
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from jobworker.clock import Clock, SystemClock
from jobworker.declare import Abort, Context, Retry, Snooze, job
from jobworker.transport.circuits import Circuits
from jobworker.worker.task import JobTask

logger = structlog.get_logger(__name__)

#: Most of an answer that becomes the result: its text as JSON (bytes), its headers, and the text of each (characters).
_MOST_BODY = 48 * 1024
_MOST_HEADERS, _LONGEST_HEADER = 50, 200

#: How much of an answer is quoted when it is an error (characters).
_QUOTED = 500

_REDIRECTS = 5

#: No server makes us wait for longer (s).
_LONGEST_WAIT = 24 * 3600.0

#: Statuses that speak against the target itself, and those with which it may say when to come back.
_OVERLOADED = 429
_FAULTS = frozenset({_OVERLOADED, *range(500, 600)})
_LATER = frozenset({_OVERLOADED, 503})

_DEFAULT_PORTS = {"http": 80, "https": 443}


class RequestFailed(Exception):
    """No answer came: no connection, no such host, a time-out, a broken answer."""


class UnexpectedStatus(Exception):
    """An answer came, and its status is none of those that count as success."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


@job(name="http.request")
def http_request(  # noqa: PLR0913  what a request takes
    context: Context,
    url: str,
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET",
    headers: dict[str, str] | None = None,
    body: str | None = None,
    json: Any = None,
    timeout: float = 30.0,
    success_codes: str = "200-299",
    circuit_failures: int = 5,
    circuit_pause: float = 60.0,
) -> dict[str, Any]:
    """Send an HTTP request; the result is {"status", "headers", "body", "complete"}.

    `body` is text, or `json` anything; `timeout` is how long (s) all of it may take, from the name of the host over
    redirects to the end of the answer.
    `success_codes` are statuses and ranges: "200-299,304". A 429 or 503 that says Retry-After is tried again then.
    After `circuit_failures` failures in a row of a host and port, by whichever job, nobody asks it for `circuit_pause`
    seconds: executions are put off and use up no attempt.
    """
    target = _target(url)
    expected = _codes(success_codes)
    content, kind = _content(body, json)
    if not 0 < timeout <= 3600:
        raise Abort("timeout must be more than 0 and at most 3600 seconds")
    circuit = _Circuit(target, circuit_failures, circuit_pause)
    circuit.enter(timeout)
    sent = {**kind, **{str(name): str(value) for name, value in (headers or {}).items()}}
    try:
        answer = _within(timeout, lambda: _send(method, url, sent, content, timeout))
    except ValueError as error:
        raise Abort(f"{method} {target} cannot be asked for: {error}") from None
    except (HTTPError, OSError) as error:
        circuit.failed()
        raise RequestFailed(f"{method} {target}: {_plainly(error)}") from None
    circuit.failed() if answer.status in _FAULTS else circuit.succeeded()
    context.log.info("%s %s: %d", method, target, answer.status)
    if answer.status in expected:
        return _result(answer)
    raise _unexpected(answer, method, target)


# --- what is asked ------------------------------------------------------------------------------------------------


def _target(url: str) -> str:
    """scheme://host:port, by which circuits are told apart. What else stands in the URL may be secret."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError as error:
        raise Abort(f"url is none: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise Abort("url must begin with http:// or https:// and name a host")
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _codes(text: str) -> frozenset[int]:
    codes: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or len(first) > 3 or len(last) > 3:
            raise Abort(f'success_codes must be statuses and ranges such as "200-299,304", not {text!r:.100}')
        codes.update(range(int(first), int(last or first) + 1))
    return frozenset(codes)


def _content(body: str | None, json: Any) -> tuple[bytes | None, dict[str, str]]:
    if body is not None and json is not None:
        raise Abort("give body or json, not both")
    if json is not None:
        return json_text.dumps(json).encode(), {"Content-Type": "application/json"}
    return (None if body is None else body.encode()), {}


# --- the request --------------------------------------------------------------------------------------------------


class _Sockets:
    """The connections of one request, which end with it whatever they wait for."""

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._open: list[socket.socket] = []
        self._over = False

    def watch(self, connected: socket.socket) -> socket.socket:
        """Remember a connection and return it."""
        with self._state:
            if self._over:
                connected.close()
                raise TimeoutError("the request is over")
            # A descriptor of our own: TLS takes the other one away.
            self._open.append(connected.dup())
        return connected

    def end(self) -> None:
        """End all connections, and refuse new ones."""
        with self._state:
            self._over = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


_sockets: ContextVar[_Sockets] = ContextVar("sockets")


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _sockets.get().watch(super()._new_conn())


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _sockets.get().watch(super()._new_conn())


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _within(seconds: float, ask: Callable[[], _Answer]) -> _Answer:
    """Return what `ask` returns or raise what it raises; raise `TimeoutError` if it takes longer than `seconds`.

    It runs in a thread: urllib3's time-outs are those of one read or connect, and looking up a name has none.
    """
    outcome: Future[_Answer] = Future()
    sockets = _Sockets()

    def run() -> None:
        _sockets.set(sockets)
        try:
            outcome.set_result(ask())
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=run, name="http.request", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"timed out: the answer was not complete after {seconds:g} s") from error
    finally:
        sockets.end()


def _send(method: str, url: str, headers: dict[str, str], content: bytes | None, timeout: float) -> _Answer:
    retries = urllib3.Retry(total=None, connect=0, read=0, redirect=_REDIRECTS, status=0, other=0)
    # Only ends what `_Sockets` cannot: a connection that is still being made.
    with urllib3.PoolManager(timeout=timeout + 1.0, retries=retries) as pool:
        pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        answer = pool.request(method, url, body=content, headers=headers, preload_content=False)
        with contextlib.closing(answer):
            body, complete = _read(answer)
            return _Answer(answer.status, _shown(answer.headers), body, complete)


def _read(answer: urllib3.BaseHTTPResponse) -> tuple[bytes, bool]:
    """Return as much of the body as is kept, and whether that is all of it."""
    body = b""
    while len(body) <= _MOST_BODY and (piece := answer.read1(_MOST_BODY)):
        body += piece
    return body[:_MOST_BODY], len(body) <= _MOST_BODY


def _shown(headers: Any) -> dict[str, str]:
    found = list(headers.items())[:_MOST_HEADERS]
    return {name: value[:_LONGEST_HEADER] for name, value in found}


def _plainly(error: BaseException) -> str:
    """What went wrong, without the pool's own words around it."""
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, BaseException) else error) or type(error).__name__


# --- what came back -----------------------------------------------------------------------------------------------


def _result(answer: _Answer) -> dict[str, Any]:
    text, complete = _text(answer), answer.complete
    while len(json_text.dumps(text)) > _MOST_BODY:
        text, complete = text[: len(text) * 3 // 4], False
    return {"status": answer.status, "headers": answer.headers, "body": text, "complete": complete}


def _text(answer: _Answer) -> str:
    # Not by the charset that it names: nearly all is UTF-8, and what is not can still be read in part.
    return answer.body.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _unexpected(answer: _Answer, method: str, target: str) -> Exception:
    error = UnexpectedStatus(f"{method} {target} answered {answer.status}: {_text(answer)[:_QUOTED]}")
    wait = _retry_after(answer, SystemClock()) if answer.status in _LATER else None
    if wait is None:
        return error
    again = Retry(wait, f"{target} answered {answer.status} and asks to come back after {wait:g} s")
    again.__cause__ = error
    return again


def _retry_after(answer: _Answer, clock: Clock) -> float | None:
    """How long (s) the server wants to be left alone; None if it does not say."""
    told = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), "").strip()
    if told.isdecimal():
        return min(float(told), _LONGEST_WAIT)
    try:
        moment = email.utils.parsedate_to_datetime(told)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return min(max(0.0, (moment - clock.now()).total_seconds()), _LONGEST_WAIT)


# --- the circuit --------------------------------------------------------------------------------------------------


class _Circuit:
    """The circuit of a target. Without Redis there is none: then everybody just tries."""

    def __init__(self, target: str, failures: int, pause: float) -> None:
        if not 1 <= failures <= 1000 or not 0 < pause <= _LONGEST_WAIT:
            raise Abort("circuit_failures must be 1 to 1000, and circuit_pause more than 0 and at most 86400 seconds")
        self._target = target
        self._failures = failures
        self._pause = pause
        self._circuits = Circuits(JobTask.job_runner().link.client)

    def enter(self, patience: float) -> None:
        """Raise `Snooze` if the target is to be left alone."""
        with _without_redis():
            wait = self._circuits.enter(self._target, patience * 2)
            if wait > 0:
                raise Snooze(wait, f"the circuit of {self._target} is open: it failed several times in a row")

    def succeeded(self) -> None:
        with _without_redis():
            self._circuits.succeeded(self._target)

    def failed(self) -> None:
        with _without_redis():
            self._circuits.failed(self._target, self._failures, self._pause)


@contextlib.contextmanager
def _without_redis() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        logger.warning("circuit_unknown", error=str(error))
