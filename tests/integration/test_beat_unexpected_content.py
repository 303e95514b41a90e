"""Unreadable entries and foreign values in the keys of beat."""

import json

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.beat import Scheduler, beat_keys, entry_format
from tests.integration.test_beat import HOURLY, MINUTE, BeatSchedule, make_spec, put_foreign_value

pytestmark = pytest.mark.every_redis

MALFORMED_ENTRIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "not an object": b"[1, 2]",
    "deeply nested": b"[" * 200_000,
    "no schedule": b'{"name": "x"}',
    "another kind of schedule": b'{"schedule": {"__type__": "interval", "every": 60, "relative": false}}',
    "unknown rule": b'{"schedule": {"__type__": "jobworker.rule", "rule": {"rule": {"kind": "moon"}}}}',
    "no rule": b'{"schedule": {"__type__": "jobworker.rule"}}',
    "disabled": json.dumps(
        json.loads(entry_format.encode_definition("x", make_spec(HOURLY))) | {"enabled": False}
    ).encode(),
}


def test_unreadable_entry_is_quarantined_and_blocks_no_other(beat: Scheduler, schedule: BeatSchedule) -> None:
    for name, definition in MALFORMED_ENTRIES.items():
        schedule.client.hset(entry_format.build_entry_key(name), entry_format.DEFINITION_FIELD, definition)
        schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key(name): 1})
    schedule.client.set(entry_format.build_entry_key("not a hash"), "text")
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key("not a hash"): 1})
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key("missing"): 1, b"redbeat:\xff": 1})
    schedule.client.hset(
        b"redbeat:\xff", entry_format.DEFINITION_FIELD, entry_format.encode_definition("x", make_spec(HOURLY))
    )
    schedule.add_entry("good", HOURLY, schedule.now - MINUTE)

    beat.tick()

    assert [name for name, _ in schedule.list_reported()] == ["good"]
    assert schedule.client.zcard(entry_format.SCHEDULE_KEY) == 1
    with redis.Redis.from_url(beat.app.redbeat_conf.redis_url) as raw:
        quarantined_keys = {key.decode(errors="replace") for key in raw.hkeys(keys.BEAT_QUARANTINE)}
        raw.hdel(keys.BEAT_QUARANTINE, b"redbeat:\xff")
    bad = {*MALFORMED_ENTRIES, "not a hash", "missing", "\ufffd"}
    assert quarantined_keys == {entry_format.build_entry_key(name) for name in bad}
    reasons = schedule.list_quarantined()
    assert "interval" in reasons[entry_format.build_entry_key("unknown rule")]
    assert reasons[entry_format.build_entry_key("missing")] == "it has no definition"
    assert "disable the job" in reasons[entry_format.build_entry_key("disabled")]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (f"{entry_format.KEY_PREFIX}:lock", "hash"),
        (f"{entry_format.KEY_PREFIX}:lock", "list"),
        (keys.BEAT, "text"),
        (keys.BEAT, "list"),
        (keys.BEAT_QUARANTINE, "text"),
    ],
)
def test_key_of_another_type_is_deleted_and_beat_continues(
    beat: Scheduler, schedule: BeatSchedule, capsys: pytest.CaptureFixture[str], key: str, kind: str
) -> None:
    put_foreign_value(schedule.client, key, kind)
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {"redbeat:poison": 1})
    for _ in range(3):
        beat.tick()
    assert [name for name, _ in schedule.list_reported()] == ["s1"]
    assert schedule.client.hget(keys.BEAT, "leader") == beat.name
    assert "redbeat:poison" in schedule.list_quarantined()
    assert f"key={key}" in "".join(capsys.readouterr())


def test_schedule_key_of_another_type_is_deleted(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.client.set(entry_format.SCHEDULE_KEY, "something")
    assert beat.tick() == 0
    assert beat.tick() == beat.max_interval
    assert not schedule.client.exists(entry_format.SCHEDULE_KEY)


@pytest.mark.parametrize("tick", ["", "soon", "9" * 30])
def test_invalid_tick_is_ignored(schedule: BeatSchedule, tick: str) -> None:
    schedule.client.hset(keys.BEAT, "tick_ms", tick)
    assert beat_keys.get_last_tick(schedule.client) is None


def test_entry_with_an_empty_key_is_logged(
    beat: Scheduler, schedule: BeatSchedule, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {"": 1})
    beat.tick()
    assert "entry='\"\"'" in "".join(capsys.readouterr())


def test_infinite_score_is_ignored(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {"redbeat:never": "inf", "redbeat:parked": "-1"})
    assert beat.tick() == beat.max_interval
