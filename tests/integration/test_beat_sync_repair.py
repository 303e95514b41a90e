"""Repair of the entries of beat that were lost, changed or broken in Redis."""

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.relay import beat_sync
from jobworker.relay.beat_sync import BeatSynchronizer
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules
from jobworker.transport import keys
from jobworker.transport.beat import Scheduler, entry_format
from jobworker.transport.beat.projection import Projection
from tests.integration.test_beat import EVERY_10_MINUTES, HOURLY, compute_next_time, make_spec
from tests.integration.test_beat_sync import FULL_SWEEP_SECONDS, HOUR, SECOND, BeatSyncDriver

pytestmark = pytest.mark.every_redis


def test_entries_lost_by_redis_are_rebuilt_in_bounded_rounds(
    sync_driver: BeatSyncDriver, beat: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat_sync, "_COMPARE_BATCH_SIZE", 700)
    ids = sync_driver.put_hourly_schedules(5000, sync_driver.now - 3 * HOUR)
    sync_driver.run_for()
    assert sync_driver.list_entry_ids() == set(ids)
    sync_driver.beat_schedule.client.flushall()

    sync_driver.projector.reset()
    sync_driver.projector.run()
    assert len(sync_driver.list_entry_ids()) == 700
    sync_driver.run_for(7)

    assert sync_driver.list_entry_ids() == set(ids)
    missed = compute_next_time(HOURLY, sync_driver.now - 3 * HOUR)
    for _ in range(11):
        beat.tick()
    assert sorted(sync_driver.beat_schedule.list_reported()) == [(schedule_id, missed) for schedule_id in ids]


def test_lost_entries_are_rebuilt_within_a_minute_without_notification(sync_driver: BeatSyncDriver) -> None:
    ids = sync_driver.put_hourly_schedules(50, sync_driver.now)
    sync_driver.run_for(37)
    sync_driver.beat_schedule.client.flushall()
    sync_driver.run_for(FULL_SWEEP_SECONDS)
    assert sync_driver.list_entry_ids() == set(ids)


def test_removed_schedules_are_found_in_bounded_rounds(
    sync_driver: BeatSyncDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat_sync, "_COMPARE_BATCH_SIZE", 100)
    ids = sync_driver.put_hourly_schedules(1500, sync_driver.now)
    sync_driver.run_for()
    with sync_driver.database.write() as connection:
        connection.execute(job_schedules.delete().where(job_schedules.c.id > ids[99]))
    sync_driver.run_for()
    assert sync_driver.list_entry_ids() == set(ids[:100])


def test_occurrence_whose_report_was_lost_is_reported_again(sync_driver: BeatSyncDriver, beat: Scheduler) -> None:
    nominal = compute_next_time(HOURLY, sync_driver.now - HOUR)
    assert nominal is not None
    due = sync_driver.put_schedule("due", HOURLY, sync_driver.now - HOUR)
    sync_driver.run_for()
    beat.tick()
    sync_driver.beat_schedule.client.delete(keys.EVENTS)
    # The report is not repeated at once, because it may be on its way to the evaluation.
    soon = ManualClock(nominal + 5 * SECOND)
    BeatSynchronizer(sync_driver.database, Projection(sync_driver.beat_schedule.client), soon).run()
    assert sync_driver.get_next_time(due) == compute_next_time(HOURLY, sync_driver.now)

    later = ManualClock(max(nominal + 11 * SECOND, sync_driver.now))
    BeatSynchronizer(sync_driver.database, Projection(sync_driver.beat_schedule.client), later).run()
    assert sync_driver.get_next_time(due) == nominal
    beat.tick()
    assert sync_driver.beat_schedule.list_reported() == [(due, nominal)]


def test_occurrence_is_not_reported_again_while_reports_are_unread(
    sync_driver: BeatSyncDriver, beat: Scheduler
) -> None:
    nominal = sync_driver.now - SECOND
    rule = {"kind": "interval", "every": 3600, "anchor": nominal.isoformat()}
    due = sync_driver.put_schedule("due", rule, nominal - SECOND)
    sync_driver.run_for(1)
    beat.tick()
    # The relay is busy and reads the report later.
    sync_driver.clock.advance(600)
    sync_driver.projector.reset()
    sync_driver.projector.run()
    assert sync_driver.get_next_time(due) == nominal + HOUR

    [(stream_id, _)] = sync_driver.beat_schedule.client.xrange(keys.EVENTS)
    with sync_driver.database.write() as connection:
        connection.execute(sa.update(core.relay_state).values(events_offset=stream_id))
    sync_driver.projector.reset()
    sync_driver.projector.run()
    assert sync_driver.get_next_time(due) == nominal


def test_report_after_an_outage_is_not_considered_lost(
    sync_driver: BeatSyncDriver, beat: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole system was down at the due time, and beat is back before the relay has read any report."""
    nominal = compute_next_time(HOURLY, sync_driver.now - 3 * HOUR)
    due = sync_driver.put_schedule("due", HOURLY, sync_driver.now - 3 * HOUR)
    sync_driver.run_for(1)
    beat.tick()
    assert sync_driver.beat_schedule.list_reported() == [(due, nominal)]

    sync_driver.projector.reset()
    sync_driver.projector.run()

    assert sync_driver.get_next_time(due) == compute_next_time(HOURLY, sync_driver.now)
    assert "due_event_lost" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("settled_hours_ago", "score"), [(0, None), (0, "inf"), (1, "inf")])
def test_postponed_entry_is_restored(
    sync_driver: BeatSyncDriver, capsys: pytest.CaptureFixture[str], settled_hours_ago: int, score: str | None
) -> None:
    since = sync_driver.now - settled_hours_ago * HOUR
    due = sync_driver.put_schedule("due", HOURLY, since)
    sync_driver.run_for()
    score = score or entry_format.to_score(sync_driver.now + 48 * HOUR)
    sync_driver.beat_schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key(due): score})
    sync_driver.clock.advance(11)
    sync_driver.run_for()
    assert sync_driver.get_next_time(due) == compute_next_time(HOURLY, since)
    said = "".join(capsys.readouterr())
    assert "beat_entries_put_back" in said
    assert "due_event_lost" not in said


@pytest.mark.parametrize("how", ["quarantined", "text", "another definition", "no definition"])
def test_broken_entry_is_restored_with_its_occurrence(sync_driver: BeatSyncDriver, beat: Scheduler, how: str) -> None:
    nominal = compute_next_time(HOURLY, sync_driver.now - HOUR)
    due = sync_driver.put_schedule("due", HOURLY, sync_driver.now - HOUR)
    sync_driver.run_for()
    key, client = entry_format.build_entry_key(due), sync_driver.beat_schedule.client
    if how == "quarantined":
        client.hset(key, entry_format.DEFINITION_FIELD, "{")
        beat.tick()
        assert sync_driver.get_next_time(due) is None
    elif how == "another definition":
        client.hset(
            key, entry_format.DEFINITION_FIELD, entry_format.encode_definition(due, make_spec(EVERY_10_MINUTES))
        )
    else:
        client.delete(key)
        if how == "text":
            client.set(key, "text")
    sync_driver.run_for()
    beat.tick()
    assert sync_driver.beat_schedule.list_quarantined() == {}
    assert sync_driver.beat_schedule.list_reported() == [(due, nominal)]
    assert sync_driver.list_entry_ids() == {due}


def test_schedule_unreadable_for_beat_is_quarantined_and_blocks_no_other(
    sync_driver: BeatSyncDriver, beat: Scheduler
) -> None:
    nominal = compute_next_time(HOURLY, sync_driver.now - HOUR)
    broken, good = (
        sync_driver.put_schedule("broken", HOURLY, sync_driver.now - HOUR),
        sync_driver.put_schedule("good", HOURLY, sync_driver.now - HOUR),
    )
    sync_driver.update_schedule(broken, spec={**make_spec(HOURLY, name="broken"), "rule": {"kind": "moon"}})
    sync_driver.run_for(1)
    beat.tick()
    assert sync_driver.beat_schedule.list_reported() == [(good, nominal)]
    assert list(sync_driver.beat_schedule.list_quarantined()) == [entry_format.build_entry_key(broken)]


def test_foreign_entries_are_left_unchanged(sync_driver: BeatSyncDriver) -> None:
    sync_driver.beat_schedule.client.zadd(entry_format.SCHEDULE_KEY, {"redbeat:mine": 10**10})
    mine = sync_driver.put_schedule("mine", HOURLY, sync_driver.now)
    sync_driver.run_for()
    sync_driver.delete_schedule(mine)
    sync_driver.run_for()
    assert sync_driver.beat_schedule.client.zrange(entry_format.SCHEDULE_KEY, 0, -1) == ["redbeat:mine"]
