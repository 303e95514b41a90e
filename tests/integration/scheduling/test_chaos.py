"""Faults of beat, Redis, the relay and the database: no occurrence is missed, and none fires twice."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.store.database.database import Database
from jobworker.transport.beat import entry_format
from tests.engine import run_engine
from tests.integration.scheduling.cluster import DEFAULT_BEAT_APP, FAST_BEAT_APP, LEADER_LOCK_SECONDS, ScheduleCluster
from tests.polling import wait_until
from tests.servers import PostgresServer, RedisServer, run_server

#: Pairs of database and scheduling provider.
SQLITE, POSTGRESQL, NO_BEAT = ("sqlite", "redbeat"), ("postgresql", "redbeat"), ("sqlite", "internal")


def with_clusters(*clusters: tuple[str, str]) -> pytest.MarkDecorator:
    """Parametrize a test with these clusters; one is enough if database or beat take no part in the fault."""
    return pytest.mark.parametrize("shared_cluster", clusters, ids="-".join, indirect=True)


TEMPLATE_DATABASE = "jobworker_template"


@pytest.fixture(scope="module")
def shared_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[ScheduleCluster]:
    """Running cluster, shared by all tests."""
    folder = tmp_path_factory.mktemp("cluster")
    kind, provider = request.param
    if kind == "sqlite":
        url = f"sqlite:///{shutil.copy(_sqlite_template, folder / 'jobworker.db')}"
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        postgres.create_database("cluster", TEMPLATE_DATABASE)
        url = postgres.get_url("cluster")
    server, database = RedisServer(folder / "redis", persistent=True), Database(url)
    with run_server(server), run_engine(folder, database, url, server.url) as engine:
        cluster = ScheduleCluster(engine, server, provider)
        engine.start_worker()
        engine.wait_until_ready()
        cluster.add_schedules()
        try:
            yield cluster
        finally:
            cluster.close()
    database.dispose()


@pytest.fixture
def cluster(shared_cluster: ScheduleCluster) -> ScheduleCluster:
    """Cluster with two beats, one of which leads, or without beats."""
    if shared_cluster.has_beats:
        while len(shared_cluster.beats) < 2:
            shared_cluster.start_beat()
        shared_cluster.wait_for_leader()
    return shared_cluster


@with_clusters(SQLITE, POSTGRESQL)
def test_schedules_fire_exactly_once_when_the_leader_is_killed(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once():
        first = cluster.wait_for_leader()
        second = cluster.get_other_beat(first)
        cluster.kill_beat(first)
        cluster.wait_until_leading(second)
        cluster.wait_until_all_fire()


@with_clusters(SQLITE)
def test_schedules_fire_exactly_once_when_the_leader_is_frozen(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once():
        first = cluster.wait_for_leader()
        first.process.send_signal(signal.SIGSTOP)
        cluster.wait_until_leading(cluster.get_other_beat(first))
        cluster.wait_for(LEADER_LOCK_SECONDS)
        first.process.send_signal(signal.SIGCONT)
        cluster.wait_until_all_fire()
        assert first.process.is_alive()


@with_clusters(SQLITE)
def test_schedules_fire_exactly_once_with_two_leading_beats(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once():
        for _ in range(4):
            first = cluster.wait_for_leader()
            first.hold_report()
            cluster.wait_until_held(first)
            cluster.delete_leader_lock()
            # The report that the first beat holds is due for the second one, too.
            cluster.wait_until_leading(cluster.get_other_beat(first))
            first.proxy.release()
        cluster.wait_until_all_fire()
        assert all(beat.process.is_alive() for beat in cluster.beats)


@with_clusters(SQLITE)
def test_schedules_fire_exactly_once_when_the_leader_is_cut_off(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once():
        first = cluster.wait_for_leader()
        first.block_requests()
        cluster.wait_until_leading(cluster.get_other_beat(first))
        cluster.wait_for(LEADER_LOCK_SECONDS)
        first.proxy.release()
        cluster.wait_until_all_fire()
        assert first.process.is_alive()


@with_clusters(SQLITE)
def test_schedules_fire_exactly_once_when_a_report_answer_is_lost(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once():
        leader = cluster.wait_for_leader()
        leader.drop_answer()
        wait_until(leader.proxy.has_cut.is_set, what="an answer to be lost")
        cluster.wait_until_all_fire()


@with_clusters(SQLITE)
def test_schedules_fire_exactly_once_across_a_redis_restart(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once():
        cluster.server.stop()
        cluster.wait_for(3)
        cluster.server.start()
        cluster.wait_until_all_fire()


@with_clusters(SQLITE)
def test_another_beat_leads_within_30_seconds_by_default(cluster: ScheduleCluster) -> None:
    cluster.replace_beats(DEFAULT_BEAT_APP)
    with cluster.expect_exactly_once(max_delay=30):
        first = cluster.wait_for_leader()
        cluster.wait_until_all_fire()
        second = cluster.get_other_beat(first)
        cluster.kill_beat(first)
        cluster.wait_until_leading(second, within=30)
        cluster.wait_until_all_fire()
    cluster.replace_beats(FAST_BEAT_APP)


@with_clusters(SQLITE, POSTGRESQL, NO_BEAT)
def test_schedules_fire_exactly_once_when_redis_is_killed(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once(check_starts=False):
        cluster.server.kill()
        cluster.wait_for(3)
        cluster.server.start()
        cluster.wait_until_all_fire()


@with_clusters(SQLITE, POSTGRESQL, NO_BEAT)
def test_schedules_fire_exactly_once_when_redis_loses_its_data(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once(check_starts=False):
        cluster.client.flushall()
        if cluster.has_beats:
            wait_until(
                lambda: cluster.client.zcard(entry_format.SCHEDULE_KEY) == len(cluster.specs), 60.0, what="all entries"
            )
        cluster.wait_until_all_fire()


@with_clusters(SQLITE, POSTGRESQL, NO_BEAT)
def test_schedules_fire_exactly_once_when_the_relay_is_killed(cluster: ScheduleCluster) -> None:
    with cluster.expect_exactly_once():
        cluster.relay.send_signal(signal.SIGKILL)
        cluster.wait_for(2)
        cluster.start_relay()
        cluster.wait_until_all_fire()


@with_clusters(POSTGRESQL)
def test_schedules_fire_exactly_once_across_a_database_outage(cluster: ScheduleCluster) -> None:
    database = cluster.engine.database
    name = str(database.url.database)
    with cluster.expect_exactly_once():
        elsewhere = sa.create_engine(database.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with elsewhere.connect() as connection:
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
            wait_until(lambda: "database_away" in cluster.engine.read_log(cluster.relay), what="the relay to notice")
            cluster.wait_for(2)
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        elsewhere.dispose()
        database.dispose()
        cluster.wait_until_all_fire()
