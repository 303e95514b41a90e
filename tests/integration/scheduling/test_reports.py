"""Reports of due schedules: late, repeated, early, or invalid."""

import contextlib
import datetime as dt

import sqlalchemy as sa

from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.schedules import schedules
from jobworker.store.tables import core
from jobworker.store.tables.schedules import occurrences
from jobworker.transport import keys
from tests.engine import Engine
from tests.polling import wait_until
from tests.servers import RedisServer


def test_invalid_due_reports_are_skipped_and_create_no_occurrence(engine: Engine, own_server: RedisServer) -> None:
    engine.start_relay()
    engine.start_worker()
    engine.wait_until_ready()
    rule = {"kind": "interval", "every": 86400, "anchor": (engine.clock.now() + dt.timedelta(hours=1)).isoformat()}
    schedule = schedules.create(engine.database, engine.clock, {"name": "tick", "job": "noop", "rule": rule}, "test")
    early, late = (engine.clock.now() + dt.timedelta(days=days) for days in (-400, 400))
    reports = [
        {"kind": "due", "data": "{}"},
        {"kind": "due", "data": '{"schedule": 5, "at": "tomorrow"}'},
        {"kind": "nonsense"},
        {"data": "["},
        _report_due("nobody", early),
        *(_report_due(schedule.row.id, at) for at in (early, late, early)),
    ]
    with contextlib.closing(own_server.create_client()) as client:
        for fields in reports:
            client.xadd(keys.EVENTS, fields)  # type: ignore[arg-type]
    # Reports are read in order: a later one has been read, so these have been read as well.
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED
    wait_until(lambda: not _count_unread(own_server, engine), what="every report to be read")
    with engine.database.read() as connection:
        assert list(connection.execute(sa.select(occurrences))) == []
        assert schedules.find(connection, "tick").next_at == schedule.row.next_at


def _report_due(schedule_id: str, at: dt.datetime) -> dict[str, str]:
    return events.encode(EventKind.DUE, "", 0, {"schedule": schedule_id, "at": at.isoformat()})


def _count_unread(server: RedisServer, engine: Engine) -> bool:
    with engine.database.read() as connection:
        read = connection.scalar(sa.select(core.relay_state.c.events_offset))
    with contextlib.closing(server.create_client()) as client:
        return bool(client.xrange(keys.EVENTS, min=f"({read}", max="+"))
