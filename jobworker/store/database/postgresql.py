"""Engine of a PostgreSQL database: its limits, and connections that are closed when the server does not respond."""

from collections.abc import Mapping
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event

#: Number of connections that stay open, and of additional ones for concurrent callers.
POOL_OPTIONS = {"pool_size": 10, "max_overflow": 20}

#: Options of libpq: timeout of connecting (s), and TCP limits after which an unreachable server is abandoned.
_LIBPQ_OPTIONS = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

#: Interval between the statement timeout of the server and the closing of the connection (s).
_GRACE_SECONDS = 3.0

_STATEMENT_TIMEOUT = "SELECT extract(epoch FROM current_setting('statement_timeout')::interval)"


def create_engine(url: sa.URL, limits: Mapping[str, float], **options: Any) -> sa.Engine:
    """Return an engine whose sessions have these settings (in seconds); options in the URL take precedence."""
    settings = " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in limits.items())
    url_options = url.query
    libpq_options = {name: value for name, value in _LIBPQ_OPTIONS.items() if name not in url_options}
    engine = sa.create_engine(
        url,
        # The options of the URL come last, so they take precedence.
        connect_args={**libpq_options, "options": f"{settings} {url_options.get('options', '')}"},
        pool_pre_ping=True,
        hide_parameters=True,
        **POOL_OPTIONS,
        **options,
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "handle_error", _shorten_error)
    return engine


def _shorten_error(context: Any) -> None:
    """Shorten an error to its first line: the rest quotes the row, whose parameters and results may be secret."""
    original = context.original_exception
    if isinstance(original, psycopg.Error) and original.diag.message_primary:
        original.args = (original.diag.message_primary,)
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.args = (f"{type(original).__name__}: {original}",)


def _connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> "_TimedConnection":
    return _TimedConnection.connect(*arguments, **options)


class _TimedConnection(psycopg.Connection[Any]):
    """Connection that is closed when the server does not respond in time.

    The kernel keeps acknowledging packets for a stopped server process, so no TCP limit ends the wait for it,
    and the timeouts of the process itself do not run.
    """

    #: Timeout of a response of the server (s).
    _response_timeout_seconds: float | None = _GRACE_SECONDS

    @classmethod
    def connect(cls, *arguments: Any, **options: Any) -> "_TimedConnection":
        """Connect, and read the statement timeout of the session."""
        connection = super().connect(*arguments, **options)
        connection.autocommit = True
        [[seconds]] = connection.execute(_STATEMENT_TIMEOUT).fetchall()
        connection.autocommit = False
        connection._response_timeout_seconds = float(seconds) + _GRACE_SECONDS if seconds else None
        return connection

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for a response, up to the timeout of this connection."""
        try:
            return super().wait(gen, interval, self._response_timeout_seconds if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()
            message = f"the server has not responded for {self._response_timeout_seconds} s; the connection is closed"
            raise psycopg.OperationalError(message) from error
