"""Proxy between a client and Redis that a test can hold, or cut between a request and its answer."""

import contextlib
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

#: Predicate over the bytes that a client sends: whether they are the request that the test waits for.
RequestPredicate = Callable[[bytes], bool]


class RedisProxy:
    """Proxy that forwards connections to the Redis behind `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f":{parts.password}@127.0.0.1:{port}"))
        self._waiting: RequestPredicate | None = None
        self._lock = threading.Lock()
        #: Set when a connection was cut after `drop_answer_to`.
        self.has_cut = threading.Event()
        self._held_back: RequestPredicate | None = None
        self._passes = threading.Event()
        self._passes.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def drop_answer_to(self, matches: RequestPredicate) -> None:
        """Forward the next request that `matches`, and cut the connection before its answer."""
        with self._lock:
            self.has_cut.clear()
            self._waiting = matches

    def hold_request(self, matches: RequestPredicate) -> None:
        """Hold the next request that `matches`, and all data after it, until `release`."""
        with self._lock:
            self._held_back = matches

    @property
    def is_holding(self) -> bool:
        """State of holding a request."""
        return not self._passes.is_set()

    def release(self) -> None:
        """Forward the held data."""
        with self._lock:
            self._held_back = None
            self._passes.set()

    def close(self) -> None:
        """Close the listener, so that no further connection is accepted."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            cut = threading.Event()
            back = threading.Thread(target=self._forward_answers, args=(server, client, cut), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while sent := client.recv(1 << 20):
                    if self._matches_dropped_request(sent):
                        cut.set()
                    self._wait_until_released(sent)
                    server.sendall(sent)
            _shut_down(client, server)
            back.join()

    def _forward_answers(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(1 << 20):
                if cut.is_set():
                    self.has_cut.set()
                    break
                client.sendall(answer)
        _shut_down(client, server)

    def _wait_until_released(self, sent: bytes) -> None:
        with self._lock:
            if self._held_back is not None and self._held_back(sent):
                self._held_back = None
                self._passes.clear()
        self._passes.wait()

    def _matches_dropped_request(self, sent: bytes) -> bool:
        with self._lock:
            if self._waiting is None or not self._waiting(sent):
                return False
            self._waiting = None
            return True


def _shut_down(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
