"""A job that carries a schedule: beat says when, the relay makes one execution of each occurrence."""

import contextlib
import signal

from jobworker.domain.execution import State
from jobworker.domain.job import Definition
from jobworker.services import jobs
from jobworker.store import executions
from jobworker.store.executions import ExecutionRow
from jobworker.store.filters import Filters
from jobworker.transport import keys
from tests.engine import Engine
from tests.servers import RedisServer
from tests.waiting import until

_EVERY_SECOND = {"kind": "interval", "every": 1}


def _fired(engine: Engine) -> list[ExecutionRow]:
    with engine.database.read() as connection:
        return list(executions.page(connection, Filters(job="tick"), limit=200).items)


def _nominal(engine: Engine) -> list[float]:
    return sorted(row.scheduled_for.timestamp() for row in _fired(engine) if row.scheduled_for)


def test_each_occurrence_fires_once_with_two_beats_of_which_one_is_killed(any_engine: Engine) -> None:
    engine = any_engine
    engine.start()
    beats = engine.beat(), engine.beat()
    definition = Definition(name="tick", task="noop", defaults={"number": 5}, schedule=_EVERY_SECOND)
    jobs.create(engine.database, engine.clock, definition, "test")
    until(lambda: len(_fired(engine)) >= 3, within=60, what="the first occurrences")
    for beat in beats:
        beat.end(signal.SIGKILL)
    engine.beat()
    seen = len(_fired(engine))
    until(lambda: len(_fired(engine)) >= seen + 3, within=60, what="the next beat to take over")

    rows = _fired(engine)
    nominal = _nominal(engine)
    # None missing and none twice, over the time without a leader, too.
    assert nominal == [nominal[0] + number for number in range(len(nominal))]
    assert nominal[0] == int(nominal[0])
    assert engine.finished(rows[-1].id).result == 5
    assert rows[-1].created_by == "schedule:tick"


def test_a_report_of_an_occurrence_that_comes_twice_or_makes_no_sense(engine: Engine, own_server: RedisServer) -> None:
    engine.relay()
    engine.worker()
    engine.ready()
    definition = Definition(name="tick", task="noop", schedule={"kind": "interval", "every": 86400})
    jobs.create(engine.database, engine.clock, definition, "test")
    with engine.database.read() as connection:
        schedule = connection.exec_driver_sql("SELECT id FROM job_schedules").scalar()
    event = {"kind": "due", "data": f'{{"schedule": "{schedule}", "at": "2026-01-01T00:00:00+00:00"}}'}
    with contextlib.closing(own_server.client()) as client:
        for fields in ({"kind": "due", "data": "{}"}, {"kind": "nonsense"}, {"data": "["}, event, event):
            client.xadd(keys.EVENTS, fields)  # type: ignore[arg-type]
    until(lambda: _fired(engine))
    done = engine.submit_one("noop")

    assert engine.finished(done).state is State.SUCCEEDED
    assert len(_fired(engine)) == 1
