"""Loop of the relay: how long a turn sleeps, and keys that do not stop it."""

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from jobworker.relay.loop import Relay
from jobworker.relay.steps import NotLeader
from jobworker.relay.stream_reader import EventBatch, StreamOffsets
from jobworker.settings import Settings
from jobworker.store.schedules import time_zone_data
from jobworker.store.tables import core
from jobworker.transport import keys
from jobworker.transport.beat import entry_format
from tests.integration.relay.conftest import DispatchDriver, make_worker
from tests.integration.test_beat import HOURLY, BeatSchedule, put_foreign_value
from tests.integration.test_beat_sync import BeatSyncDriver

pytestmark = pytest.mark.every_redis


class RecordingReader:
    """Reader that returns no entries and records the permitted waits."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def read(self, offsets: StreamOffsets, wait: float) -> EventBatch:
        self.waits.append(wait)
        return EventBatch(offsets)

    def trim(self, offsets: StreamOffsets) -> None:
        """Trim nothing."""


def test_turn_sleeps_briefly_while_a_cancellation_is_undecided(driver: DispatchDriver, redis_url: str) -> None:
    driver.resign_leadership()
    relay = Relay(driver.database, redis_url, driver.clock, Settings.from_environment({}))
    asleep = relay._reader = RecordingReader()  # type: ignore[assignment]
    relay._dispatcher.workers = [make_worker(driver.clock.now())]
    execution = driver.submit()
    driver.mark_fetched(execution)
    driver.request_cancel(execution)

    def turn() -> float:
        relay.run_turn()
        driver.clock.advance(asleep.waits[-1])
        return asleep.waits[-1]

    first, second = turn(), turn()
    assert second <= first / 5, "it asks again soon"
    assert turn() == second, "and again"
    driver.mark_returned(execution)
    turn()
    assert driver.get_execution(execution).state == "Cancelled"
    assert turn() == first


@pytest.mark.parametrize("provider", ["redbeat", "internal"])
@pytest.mark.parametrize("key", [entry_format.SCHEDULE_KEY, keys.BEAT, keys.BEAT_PROJECTION, keys.BEAT_QUARANTINE])
def test_beat_key_of_another_type_does_not_stop_the_relay(
    driver: DispatchDriver, redis_url: str, key: str, provider: str, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.resign_leadership()
    relay = Relay(
        driver.database, redis_url, driver.clock, Settings.from_environment({"JOBWORKER_SCHEDULING_PROVIDER": provider})
    )
    sync_driver = BeatSyncDriver(
        driver.database, BeatSchedule(driver.client), driver.clock, relay._maintenance._beat_synchronizer
    )
    relay._reader = RecordingReader()  # type: ignore[assignment]
    relay.run_turn()
    put_foreign_value(driver.client, key, "text")
    entry_id = sync_driver.put_schedule("nightly", HOURLY, driver.clock.now())
    for _ in range(20):
        driver.clock.advance(4)
        relay.run_turn()
    if provider == "redbeat":
        assert sync_driver.list_entry_ids() == {entry_id}
        if key != keys.BEAT:
            assert f"key={key}" in "".join(capsys.readouterr())


def test_standby_relay_warns_when_the_leader_has_different_zone_data(driver: DispatchDriver, redis_url: str) -> None:
    relay = Relay(driver.database, redis_url, driver.clock, Settings.from_environment({}))
    with driver.database.write() as connection:
        time_zone_data.upsert(connection, "2020a (tzdata 2020.1)", b"")
    with capture_logs() as logged:
        for renewals in range(2):
            with driver.database.write() as connection:
                connection.execute(sa.update(core.relay_state).values(leader="other:1", renewals=renewals))
            with pytest.raises(NotLeader):
                relay.run_turn()
            driver.clock.advance(60)
    [warning] = [entry["why"] for entry in logged if entry["event"] == "time_zone_data_differ"]
    assert "others have 2020a (tzdata 2020.1): relay other:1." in warning
