"""Whatever happens to beat, Redis, the relay and the database: nothing is missing, and nothing happens twice."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.store.database import Database
from jobworker.transport import entries
from tests.engine import engine_on
from tests.integration.scheduling.town import IMPATIENT, LOCK, SHIPPED, Town
from tests.servers import PostgresServer, RedisServer, running
from tests.waiting import until

#: The database, and who says what is due.
SQLITE, POSTGRESQL, NO_BEAT = ("sqlite", "redbeat"), ("postgresql", "redbeat"), ("sqlite", "internal")


def of(*towns: tuple[str, str]) -> pytest.MarkDecorator:
    """What happens in these towns; where database or beat have no part in it, one of them is enough."""
    return pytest.mark.parametrize("built", towns, ids="-".join, indirect=True)


TEMPLATE = "jobworker_template"


@pytest.fixture(scope="module")
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[Town]:
    """A town at work, for all the tests."""
    folder = tmp_path_factory.mktemp("town")
    kind, provider = request.param
    if kind == "sqlite":
        url = f"sqlite:///{shutil.copy(_sqlite_template, folder / 'jobworker.db')}"
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        postgres.create("town", TEMPLATE)
        url = postgres.url("town")
    server, database = RedisServer(folder / "redis", persistent=True), Database(url)
    with running(server), engine_on(folder, database, url, server.url) as engine:
        town = Town(engine, server, provider)
        engine.worker()
        engine.ready()
        town.plant()
        try:
            yield town
        finally:
            town.close()
    database.dispose()


@pytest.fixture
def town(built: Town) -> Town:
    """The town with two beats, one of which leads; or without any."""
    if built.has_beats:
        while len(built.beats) < 2:
            built.start_beat()
        built.leader()
    return built


@of(SQLITE, POSTGRESQL)
def test_the_leader_is_killed(town: Town) -> None:
    with town.ordinary_day():
        first = town.leader()
        second = town.other(first)
        town.kill(first)
        town.leads(second)
        town.goes_on()


@of(SQLITE)
def test_the_leader_stands_still_for_longer_than_its_lock(town: Town) -> None:
    with town.ordinary_day():
        first = town.leader()
        first.process.send(signal.SIGSTOP)
        town.leads(town.other(first))
        town.lasts(LOCK)
        first.process.send(signal.SIGCONT)
        town.goes_on()
        assert first.process.is_alive()


@of(SQLITE)
def test_two_beats_lead_at_once(town: Town) -> None:
    with town.ordinary_day():
        for _ in range(4):
            first = town.leader()
            first.hold_report()
            town.stops(first)
            town.lose_lock()
            # What the first one holds back is due for the second one, too.
            town.leads(town.other(first))
            first.wire.let_go()
        town.goes_on()
        assert all(beat.process.is_alive() for beat in town.beats)


@of(SQLITE)
def test_the_host_of_the_leader_is_cut_off(town: Town) -> None:
    with town.ordinary_day():
        first = town.leader()
        first.cut_off()
        town.leads(town.other(first))
        town.lasts(LOCK)
        first.wire.let_go()
        town.goes_on()
        assert first.process.is_alive()


@of(SQLITE)
def test_the_answer_to_a_report_gets_lost(town: Town) -> None:
    with town.ordinary_day():
        leader = town.leader()
        leader.lose_answer()
        until(leader.wire.has_cut.is_set, what="an answer to be lost")
        town.goes_on()


@of(SQLITE)
def test_redis_is_restarted(town: Town) -> None:
    with town.ordinary_day():
        town.server.stop()
        town.lasts(3)
        town.server.start()
        town.goes_on()


@of(SQLITE)
def test_as_shipped_another_beat_leads_within_30_seconds(town: Town) -> None:
    town.replace_beats(SHIPPED)
    with town.ordinary_day(bound=30):
        first = town.leader()
        town.goes_on()
        second = town.other(first)
        town.kill(first)
        town.leads(second, within=30)
        town.goes_on()
    town.replace_beats(IMPATIENT)


@of(SQLITE, POSTGRESQL, NO_BEAT)
def test_redis_is_killed(town: Town) -> None:
    with town.ordinary_day(began_once=False):
        town.server.kill()
        town.lasts(3)
        town.server.start()
        town.goes_on()


@of(SQLITE, POSTGRESQL, NO_BEAT)
def test_redis_forgets_everything(town: Town) -> None:
    with town.ordinary_day(began_once=False):
        town.client.flushall()
        if town.has_beats:
            until(lambda: town.client.zcard(entries.SCHEDULE_KEY) == len(town.specs), 60.0, what="all entries")
        town.goes_on()


@of(SQLITE, POSTGRESQL, NO_BEAT)
def test_the_relay_is_killed(town: Town) -> None:
    with town.ordinary_day():
        town.relay.send(signal.SIGKILL)
        town.lasts(2)
        town.start_relay()
        town.goes_on()


@of(POSTGRESQL)
def test_the_database_goes_away(town: Town) -> None:
    database = town.engine.database
    name = str(database.url.database)
    with town.ordinary_day():
        elsewhere = sa.create_engine(database.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with elsewhere.connect() as connection:
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
            until(lambda: "database_away" in town.engine.log(town.relay), what="the relay to notice")
            town.lasts(2)
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        elsewhere.dispose()
        database.dispose()
        town.goes_on()
