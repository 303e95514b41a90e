"""What a schedule missed: made up for, and on record."""

import datetime as dt
import json

from jobworker.domain.job import Definition
from jobworker.services import jobs
from jobworker.transport import keys
from tests.engine import Engine
from tests.servers import RedisServer
from tests.waiting import until


def test_what_was_missed_leaves_a_row(any_engine: Engine, own_server: RedisServer) -> None:
    engine = any_engine
    engine.relay()
    engine.worker()
    engine.ready()
    definition = Definition(name="tick", task="noop", schedule={"kind": "interval", "every": 3600})
    jobs.create(engine.database, engine.clock, definition, "test")
    with engine.database.read() as connection:
        schedule = connection.exec_driver_sql("SELECT id FROM job_schedules").scalar()
    at, until_moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 5, tzinfo=dt.UTC)
    data = json.dumps({"schedule": schedule, "at": at.isoformat(), "until": until_moment.isoformat()})
    client = own_server.client()
    for _ in range(2):
        client.xadd(keys.EVENTS, {"kind": "due", "data": data})
    client.close()

    def ledger() -> list[tuple[str, int]]:
        with engine.database.read() as connection:
            query = "SELECT outcome, count(*) FROM occurrences GROUP BY outcome ORDER BY outcome"
            return [(row[0], row[1]) for row in connection.exec_driver_sql(query)]

    until(lambda: ledger() == [("coalesced", 4), ("fired", 1)], what="a row for each occurrence")
    engine.finished(engine.submit_one("noop"))
    assert ledger() == [("coalesced", 4), ("fired", 1)]
