"""A wire between a worker and Redis that a test can cut between a request and its answer."""

import contextlib
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

#: Sees what a client sends, and says whether it is what the test waits for.
Sees = Callable[[bytes], bool]


class Proxy:
    """Forwards connections to the Redis behind `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f":{parts.password}@127.0.0.1:{port}"))
        self._waiting: Sees | None = None
        self._lock = threading.Lock()
        #: Whether a connection was cut since `cut_answer_to`.
        self.has_cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_answer_to(self, sees: Sees) -> None:
        """The next request for which `sees` is true reaches Redis, which answers; then the connection is cut."""
        with self._lock:
            self.has_cut.clear()
            self._waiting = sees

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            cut = threading.Event()
            back = threading.Thread(target=self._answers, args=(server, client, cut), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while sent := client.recv(1 << 20):
                    if self._strikes(sent):
                        cut.set()
                    server.sendall(sent)
            _end(client, server)
            back.join()

    def _answers(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(1 << 20):
                if cut.is_set():
                    self.has_cut.set()
                    break
                client.sendall(answer)
        _end(client, server)

    def _strikes(self, sent: bytes) -> bool:
        with self._lock:
            if self._waiting is None or not self._waiting(sent):
                return False
            self._waiting = None
            return True


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
