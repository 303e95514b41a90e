"""RSGI application for granian: a WSGI application whose requests occupy a thread only after their body has arrived.

Granian assigns a thread to a WSGI request before its body has arrived and has no deadline for bodies, so a few
clients that never finish theirs would occupy every thread. Here the event loop receives bodies, within limits of time
and memory.
"""

import asyncio
import collections
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]  # it is documented
from werkzeug.exceptions import RequestEntityTooLarge

from jobworker.api.host_check import OriginPolicy, UnknownHost
from jobworker.api.problems import BodyTooSlow, MalformedBody
from jobworker.domain.errors import FieldError, InvalidInput, JobWorkerError, ServiceBusy

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from granian._granian import RSGIHTTPProtocol
    from granian.rsgi import Scope

CallResult = TypeVar("CallResult")
_PendingCall = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]

#: Number of threads that run requests. Open streams and waiting requests occupy some of them (`api/context.py`).
REQUEST_THREADS = 112

#: Maximum time (s) until the coroutine of a request is resumed after its response was written. Waking the event loop
#: for each request would cost more than everything else that the loop does.
_RESOLVE_INTERVAL_SECONDS = 0.02

#: Interval (s) between checks whether the parent process is alive.
_PARENT_CHECK_SECONDS = 1.0

#: Key in the WSGI environment of the error that prevented receiving the body; `api/request_hooks.py` raises it.
REJECTION_KEY = "jobworker.refused"

#: Maximum size (bytes) and time (s) for which a too large body is read and discarded before the request is rejected:
#: a client that gets a response while it still sends may not read it.
_MAX_DISCARDED_BYTES, _MAX_DISCARD_SECONDS = 64 * 1024 * 1024, 2.0

#: Number of empty chunks of a truncated body: granian ends every body with one, and sends another when it breaks off.
_EMPTY_CHUNKS_WHEN_TRUNCATED = 2

#: Maximum size (bytes) of a response of known length that is written in one piece.
_MAX_UNSTREAMED_BYTES = 1024 * 1024

_BASE_ENVIRON: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits for arriving bodies: size of each, total size, number, and time for each."""

    max_body_bytes: int
    max_total_bytes: int = 128 * 1024 * 1024
    max_bodies: int = 256
    timeout_seconds: float = 30.0


class RsgiApplication:
    """RSGI application that wraps a WSGI application."""

    def __init__(
        self, app: "WSGIApplication", limits: BodyLimits, origins: OriginPolicy, threads: int = REQUEST_THREADS
    ) -> None:
        self._app = app
        self._origins = origins
        self._threads = _RequestThreads(threads)
        self._bodies = BodyReceiver(limits)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the threads; granian calls this method in each of its processes."""
        self._threads.start(loop)
        loop.call_later(_PARENT_CHECK_SECONDS, _exit_with_parent, loop, os.getppid())

    async def __rsgi__(self, scope: "Scope", proto: "RSGIHTTPProtocol") -> None:
        """Handle one request."""
        body, rejection = b"", self._find_rejection(scope)
        if rejection is None and ("content-length" in scope.headers or "transfer-encoding" in scope.headers):
            body, rejection = await self._bodies.receive(scope.headers.get("content-length"), proto)
        streamed = await self._threads.run(self._respond, scope, proto, body, rejection)
        if streamed is None:
            return
        status, headers, chunks = streamed
        iterator = iter(chunks)
        transport = proto.response_stream(status, headers)
        try:
            while (chunk := await self._threads.run(next, iterator, None)) is not None:
                await transport.send_bytes(chunk)
        except ProtocolClosed:
            pass  # The client closed the connection.
        finally:
            await self._threads.run(_close_chunks, chunks)

    def _find_rejection(self, scope: "Scope") -> Exception | None:
        if len(scope.headers.get_all("host")) > 1:  # type: ignore[attr-defined]  # it is documented
            return UnknownHost("the request has several Host headers; it must have one that names this service")
        try:
            self._origins.check(scope.method, scope.path, scope.headers)
        except JobWorkerError as error:
            return error
        return None

    def _respond(
        self, scope: "Scope", proto: "RSGIHTTPProtocol", body: bytes, rejection: Exception | None
    ) -> tuple[int, list[tuple[str, str]], Iterable[bytes]] | None:
        """Run the application and write its response; return a response of unknown or large length to be streamed."""
        status, headers = 500, list[tuple[str, str]]()

        def start_response(
            line: str, fields: list[tuple[str, str]], _error: object = None
        ) -> Callable[[bytes], object]:
            nonlocal status, headers
            status, headers = int(line[:3]), [(name.lower(), value) for name, value in fields]
            return _reject_write

        environ = _make_environ(scope, body)
        environ[REJECTION_KEY] = rejection or _find_unreadable_header(scope, environ)
        chunks = self._app(environ, start_response)
        length = next((value for name, value in headers if name == "content-length"), None)
        if scope.method != "HEAD" and (length is None or int(length) > _MAX_UNSTREAMED_BYTES):
            return status, headers, chunks
        try:
            proto.response_bytes(status, headers, b"".join(chunks))
        finally:
            _close_chunks(chunks)
        return None


class BodySource(Protocol):
    """Body in chunks."""

    def __aiter__(self) -> Any: ...


class BodyReceiver:
    """Receiver of bodies. When they exceed the limits together, the body that has been arriving longest is dropped.

    So a client that sends its body at once is served regardless of the number of clients that do not.
    """

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._arriving: dict[asyncio.Timeout, int] = {}
        self._total_bytes = 0

    async def receive(self, length: str | None, source: BodySource) -> tuple[bytes, Exception | None]:
        """Return the body and None, or an empty body and the error."""
        announced = int(length) if length else None
        is_too_large = announced is not None and announced > self._limits.max_body_bytes
        deadline = asyncio.timeout(_MAX_DISCARD_SECONDS if is_too_large else self._limits.timeout_seconds)
        chunks: list[bytes] = []
        empty_chunks = 0
        try:
            async with deadline:
                self._arriving[deadline] = 0
                discard_budget = _MAX_DISCARDED_BYTES
                async for chunk in source:
                    empty_chunks += not chunk
                    if is_too_large:
                        discard_budget -= len(chunk)
                        if discard_budget < 0:
                            break
                        continue
                    chunks.append(bytes(chunk))
                    if self._count_bytes(deadline, len(chunk)) > self._limits.max_body_bytes:
                        is_too_large = True
                        chunks.clear()
                        self._total_bytes -= self._arriving[deadline]
                        self._arriving[deadline] = 0
                        deadline.reschedule(asyncio.get_running_loop().time() + _MAX_DISCARD_SECONDS)
        except TimeoutError:
            return b"", RequestEntityTooLarge() if is_too_large else self._make_timeout_error(deadline)
        finally:
            self._total_bytes -= self._arriving.pop(deadline, 0)
        if is_too_large:
            return b"", RequestEntityTooLarge()
        body = b"".join(chunks)
        if announced is not None and len(body) != announced:
            return b"", MalformedBody(f"the body ended after {len(body)} of {announced} bytes")
        if announced is None and empty_chunks >= _EMPTY_CHUNKS_WHEN_TRUNCATED:
            return b"", MalformedBody(f"the body ended after {len(body)} bytes, before its last chunk")
        return body, None

    def _count_bytes(self, deadline: asyncio.Timeout, size: int) -> int:
        """Count arrived bytes, drop the oldest bodies above the limits, and return the size of this body so far."""
        if deadline not in self._arriving:
            return 0  # This body was dropped; its coroutine ends when the event loop resumes it.
        received = self._arriving[deadline] + size
        self._arriving[deadline] = received
        self._total_bytes += size
        while len(self._arriving) > self._limits.max_bodies or self._total_bytes > self._limits.max_total_bytes:
            oldest = next(iter(self._arriving))
            if oldest is deadline:
                break
            self._total_bytes -= self._arriving.pop(oldest)
            oldest.reschedule(0)
        return received

    def _make_timeout_error(self, deadline: asyncio.Timeout) -> Exception:
        if deadline in self._arriving:
            return BodyTooSlow(f"the body did not arrive within {self._limits.timeout_seconds:g} s; send it again")
        return ServiceBusy(
            "too many request bodies are incomplete, and this one has been arriving longest; send it again soon"
        )


class _RequestThreads:
    """Thread pool of fixed size that runs calls for the event loop.

    An executor of the standard library uses a lock, a condition and two futures for each call, which costs a fifth of
    a short request.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._calls: SimpleQueue[_PendingCall] = SimpleQueue()
        #: Futures of calls that returned None: their response is written, so the event loop is not woken for each.
        self._finished: collections.deque[asyncio.Future[Any]] = collections.deque()
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for number in range(self._number):
            threading.Thread(target=self._run_calls, name=f"request-{number}", daemon=True).start()

    async def run(self, call: Callable[..., CallResult], *arguments: Any) -> CallResult:
        """Return the result of `call`, or raise its exception. None may be returned a resolve interval later."""
        future: asyncio.Future[CallResult] = self._loop.create_future()
        self._resolve_finished()
        self._running += 1
        if self._timer is None:
            self._timer = self._loop.call_later(_RESOLVE_INTERVAL_SECONDS, self._poll_finished)
        self._calls.put((future, call, arguments))
        try:
            return await future
        finally:
            self._running -= 1

    def _poll_finished(self) -> None:
        self._resolve_finished()
        self._timer = self._loop.call_later(_RESOLVE_INTERVAL_SECONDS, self._poll_finished) if self._running else None

    def _resolve_finished(self) -> None:
        while self._finished:
            _complete_future(self._finished.popleft(), None, None)

    def _run_calls(self) -> None:
        while True:
            future, call, arguments = self._calls.get()
            result, error = None, None
            try:
                result = call(*arguments)
            except BaseException as raised:  # noqa: BLE001 - the coroutine that waits for the call raises it
                error = raised
            if result is None and error is None:
                self._finished.append(future)
            else:
                self._loop.call_soon_threadsafe(_complete_future, future, result, error)
            del future, call, arguments, result, error  # Do not keep a finished request alive until the next one.


def _exit_with_parent(loop: asyncio.AbstractEventLoop, parent: int) -> None:
    """Terminate this process if granian's main process was killed and cannot do so: it would keep the port."""
    if os.getppid() == parent:
        loop.call_later(_PARENT_CHECK_SECONDS, _exit_with_parent, loop, parent)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def _complete_future(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _close_chunks(chunks: Any) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()


def _reject_write(_data: bytes) -> None:
    raise NotImplementedError("write() is not supported; return an iterable")


def _make_environ(scope: "Scope", body: bytes) -> dict[str, Any]:
    """Return the WSGI environment of a request."""
    host, _, port = scope.server.rpartition(":")
    environ = {
        **_BASE_ENVIRON,
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string.encode().decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "REMOTE_ADDR": scope.client.rpartition(":")[0].strip("[]"),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body),
    }
    for name, value in scope.headers.items():
        key = _CGI_HEADERS.get(name) or "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    if environ.pop("HTTP_TRANSFER_ENCODING", None):
        environ["CONTENT_LENGTH"] = str(len(body))  # The chunked body is complete now.
    return environ


_CGI_HEADERS = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}

#: Headers that the API reads. Granian omits every value that is not ASCII.
_ASCII_HEADERS = {
    name: f"HTTP_{name.upper().replace('-', '_')}" for name in ("idempotency-key", "if-match", "last-event-id")
}


def _find_unreadable_header(scope: "Scope", environ: dict[str, Any]) -> Exception | None:
    for name, key in _ASCII_HEADERS.items():
        if key not in environ and name in scope.headers:
            message = f"the header {name} may have printable ASCII characters only"
            return InvalidInput(message, [FieldError(name, "not_allowed", message)])
    return None
