"""The engine of a PostgreSQL database: its limits, and connections that give up a server which does not answer."""

from collections.abc import Mapping
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event

#: Connections that are kept, and those that are made beside them when many callers come at once.
POOL_OPTIONS = {"pool_size": 10, "max_overflow": 20}

#: libpq: seconds for a connection to be made, and until a server that does not answer the network is given up.
_LIBPQ_OPTIONS = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

#: So much later (s) than a statement is to be ended by the server, the server is given up.
_GRACE_SECONDS = 3.0

_STATEMENT_TIMEOUT = "SELECT extract(epoch FROM current_setting('statement_timeout')::interval)"


def create_engine(url: sa.URL, limits: Mapping[str, float], **options: Any) -> sa.Engine:
    """Return an engine whose sessions have these settings (in seconds); what the URL says goes before them."""
    settings = " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in limits.items())
    theirs = url.query
    given = {name: value for name, value in _LIBPQ_OPTIONS.items() if name not in theirs}
    made = sa.create_engine(
        url,
        # What the URL says comes last, so it counts.
        connect_args={**given, "options": f"{settings} {theirs.get('options', '')}"},
        pool_pre_ping=True,
        hide_parameters=True,
        **POOL_OPTIONS,
        **options,
    )
    event.listen(made, "do_connect", _connect)
    event.listen(made, "handle_error", _shorten_error)
    return made


def _shorten_error(context: Any) -> None:
    """Shorten an error to its first line: what follows quotes the row, and its parameters and results may be secret."""
    original = context.original_exception
    if isinstance(original, psycopg.Error) and original.diag.message_primary:
        original.args = (original.diag.message_primary,)
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.args = (f"{type(original).__name__}: {original}",)


def _connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> "_TimedConnection":
    return _TimedConnection.connect(*arguments, **options)


class _TimedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server does not answer in time.

    The kernel of a server process that is stopped goes on to acknowledge what it receives, so no limit of TCP ends
    that wait, and the time-outs of the process itself do not run.
    """

    #: How long (s) the server may take for an answer.
    _response_timeout_seconds: float | None = _GRACE_SECONDS

    @classmethod
    def connect(cls, *arguments: Any, **options: Any) -> "_TimedConnection":
        """Connect, and learn how long a statement may take here."""
        made = super().connect(*arguments, **options)
        made.autocommit = True
        [[seconds]] = made.execute(_STATEMENT_TIMEOUT).fetchall()
        made.autocommit = False
        made._response_timeout_seconds = float(seconds) + _GRACE_SECONDS if seconds else None
        return made

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for an answer, up to the limit of this connection."""
        try:
            return super().wait(gen, interval, self._response_timeout_seconds if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()
            message = f"the server has not answered for {self._response_timeout_seconds} s; the connection is closed"
            raise psycopg.OperationalError(message) from error
