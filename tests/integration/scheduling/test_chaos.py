"""Whatever happens to beat, Redis, the relay and the database: nothing is missing, and nothing happens twice."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.store.database import Database
from jobworker.transport import entries
from tests.engine import run_engine
from tests.integration.scheduling.town import FAST_BEAT_APP, LEADER_LOCK_SECONDS, DEFAULT_BEAT_APP, ScheduleCluster
from tests.servers import PostgresServer, RedisServer, run_server
from tests.waiting import until

#: The database, and who says what is due.
SQLITE, POSTGRESQL, NO_BEAT = ("sqlite", "redbeat"), ("postgresql", "redbeat"), ("sqlite", "internal")


def with_clusters(*clusters: tuple[str, str]) -> pytest.MarkDecorator:
    """What happens in these towns; where database or beat have no part in it, one of them is enough."""
    return pytest.mark.parametrize("built", clusters, ids="-".join, indirect=True)


TEMPLATE_DATABASE = "jobworker_template"


@pytest.fixture(scope="module")
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[ScheduleCluster]:
    """A town at work, for all the tests."""
    folder = tmp_path_factory.mktemp("town")
    kind, provider = request.param
    if kind == "sqlite":
        url = f"sqlite:///{shutil.copy(_sqlite_template, folder / 'jobworker.db')}"
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        postgres.create_database("town", TEMPLATE_DATABASE)
        url = postgres.get_url("town")
    server, database = RedisServer(folder / "redis", persistent=True), Database(url)
    with run_server(server), run_engine(folder, database, url, server.url) as engine:
        town = ScheduleCluster(engine, server, provider)
        engine.start_worker()
        engine.wait_until_ready()
        town.add_schedules()
        try:
            yield town
        finally:
            town.close()
    database.dispose()


@pytest.fixture
def town(built: ScheduleCluster) -> ScheduleCluster:
    """The town with two beats, one of which leads; or without any."""
    if built.has_beats:
        while len(built.beats) < 2:
            built.start_beat()
        built.wait_for_leader()
    return built


@with_clusters(SQLITE, POSTGRESQL)
def test_the_leader_is_killed(town: ScheduleCluster) -> None:
    with town.expect_exactly_once():
        first = town.wait_for_leader()
        second = town.get_other_beat(first)
        town.kill_beat(first)
        town.wait_until_leading(second)
        town.wait_until_all_fire()


@with_clusters(SQLITE)
def test_the_leader_stands_still_for_longer_than_its_lock(town: ScheduleCluster) -> None:
    with town.expect_exactly_once():
        first = town.wait_for_leader()
        first.process.send_signal(signal.SIGSTOP)
        town.wait_until_leading(town.get_other_beat(first))
        town.wait_for(LEADER_LOCK_SECONDS)
        first.process.send_signal(signal.SIGCONT)
        town.wait_until_all_fire()
        assert first.process.is_alive()


@with_clusters(SQLITE)
def test_two_beats_lead_at_once(town: ScheduleCluster) -> None:
    with town.expect_exactly_once():
        for _ in range(4):
            first = town.wait_for_leader()
            first.hold_report()
            town.wait_until_held(first)
            town.delete_leader_lock()
            # What the first one holds back is due for the second one, too.
            town.wait_until_leading(town.get_other_beat(first))
            first.proxy.release()
        town.wait_until_all_fire()
        assert all(beat.process.is_alive() for beat in town.beats)


@with_clusters(SQLITE)
def test_the_host_of_the_leader_is_cut_off(town: ScheduleCluster) -> None:
    with town.expect_exactly_once():
        first = town.wait_for_leader()
        first.block_requests()
        town.wait_until_leading(town.get_other_beat(first))
        town.wait_for(LEADER_LOCK_SECONDS)
        first.proxy.release()
        town.wait_until_all_fire()
        assert first.process.is_alive()


@with_clusters(SQLITE)
def test_the_answer_to_a_report_gets_lost(town: ScheduleCluster) -> None:
    with town.expect_exactly_once():
        leader = town.wait_for_leader()
        leader.drop_answer()
        until(leader.proxy.has_cut.is_set, what="an answer to be lost")
        town.wait_until_all_fire()


@with_clusters(SQLITE)
def test_redis_is_restarted(town: ScheduleCluster) -> None:
    with town.expect_exactly_once():
        town.server.stop()
        town.wait_for(3)
        town.server.start()
        town.wait_until_all_fire()


@with_clusters(SQLITE)
def test_as_shipped_another_beat_leads_within_30_seconds(town: ScheduleCluster) -> None:
    town.replace_beats(DEFAULT_BEAT_APP)
    with town.expect_exactly_once(max_delay=30):
        first = town.wait_for_leader()
        town.wait_until_all_fire()
        second = town.get_other_beat(first)
        town.kill_beat(first)
        town.wait_until_leading(second, within=30)
        town.wait_until_all_fire()
    town.replace_beats(FAST_BEAT_APP)


@with_clusters(SQLITE, POSTGRESQL, NO_BEAT)
def test_redis_is_killed(town: ScheduleCluster) -> None:
    with town.expect_exactly_once(check_starts=False):
        town.server.kill()
        town.wait_for(3)
        town.server.start()
        town.wait_until_all_fire()


@with_clusters(SQLITE, POSTGRESQL, NO_BEAT)
def test_redis_forgets_everything(town: ScheduleCluster) -> None:
    with town.expect_exactly_once(check_starts=False):
        town.client.flushall()
        if town.has_beats:
            until(lambda: town.client.zcard(entries.SCHEDULE_KEY) == len(town.specs), 60.0, what="all entries")
        town.wait_until_all_fire()


@with_clusters(SQLITE, POSTGRESQL, NO_BEAT)
def test_the_relay_is_killed(town: ScheduleCluster) -> None:
    with town.expect_exactly_once():
        town.relay.send_signal(signal.SIGKILL)
        town.wait_for(2)
        town.start_relay()
        town.wait_until_all_fire()


@with_clusters(POSTGRESQL)
def test_the_database_goes_away(town: ScheduleCluster) -> None:
    database = town.engine.database
    name = str(database.url.database)
    with town.expect_exactly_once():
        elsewhere = sa.create_engine(database.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with elsewhere.connect() as connection:
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
            until(lambda: "database_away" in town.engine.read_log(town.relay), what="the relay to notice")
            town.wait_for(2)
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        elsewhere.dispose()
        database.dispose()
        town.wait_until_all_fire()
