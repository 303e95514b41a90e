"""The scheduler of `celery beat`: each tick reads a batch of due entries, reports them and advances them."""

import datetime as dt
import functools
import json
import math
import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis
import structlog
from redbeat.schedulers import RedBeatConfig, RedBeatScheduler
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobworker.domain.errors import ConfigurationError
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.transport import keys
from jobworker.transport.beat import beat_keys, entry_format, scripts
from jobworker.transport.beat.entry import BeatEntry, RuleSchedule

_log = structlog.get_logger(__name__)

#: Maximum number of due entries per tick: some milliseconds of Redis's time. The rest follows at once.
BATCH_SIZE = 500

#: Maximum number of cached decoded definitions.
_CACHE_SIZE = 10_000

#: Minimum number of tick intervals in the lock's lifetime: it must outlive a few slow ticks, or leadership changes
#: hands.
_LOCK_TICKS = 5

#: Minimum and maximum pause between tries while Redis does not respond (s).
_MIN_BACKOFF_SECONDS = 0.25
_MAX_BACKOFF_SECONDS = 5.0

#: Minimum sleep (s): the next entry may be due within less than the resolution of sleep, which would make beat spin.
_MIN_SLEEP_SECONDS = 0.005


class DueEntry(NamedTuple):
    """A due entry as it was read, in bytes, because it may have any content."""

    key: bytes
    score: bytes
    definition: bytes

    @property
    def name(self) -> str:
        """The key as printable text."""
        return self.key.decode(errors="backslashreplace") or '""'


@dataclass(frozen=True, slots=True)
class ScheduleSnapshot:
    """The result of one read: Redis's time, the due entries, and when the next entry is due."""

    now: dt.datetime
    next_times: tuple[dt.datetime, ...]
    due: tuple[DueEntry, ...]

    @classmethod
    def from_answer(cls, answer: list[Any]) -> "ScheduleSnapshot":
        """Return the snapshot for a result of `scripts.READ`."""
        now, following, due = answer
        return cls(entry_format.from_score(now), _parse_times(following), tuple(DueEntry(*entry) for entry in due))


class DueReport(NamedTuple):
    """The report of a due entry, and when the entry is due again (None: never)."""

    entry: DueEntry
    data: str
    next_at: dt.datetime | None

    def to_arguments(self) -> tuple[bytes | str, ...]:
        """Return the arguments for `scripts.COMMIT`."""
        score = "" if self.next_at is None else entry_format.to_score(self.next_at)
        return *self.entry, score, self.data


class UnusableEntry(ValueError):
    """An entry without a computable occurrence; the text states the reason."""


class _Config(RedBeatConfig):
    """RedBeat's settings. Its Redis is the broker, because `inspect conf` shows a separate URL in Celery's settings."""

    def either_or(self, name: str, default: Any = None) -> Any:
        """Return a setting, or its default."""
        return self.app.conf.broker_url if name == _REDIS_URL_SETTING else super().either_or(name, default)

    def is_key_in_conf(self, name: str) -> bool:
        """Return whether a setting is set."""
        return name == _REDIS_URL_SETTING or bool(super().is_key_in_conf(name))


_REDIS_URL_SETTING = "redbeat_redis_url"


class Scheduler(RedBeatScheduler):
    """Leads or stands by, tick by tick. Neither outages of Redis nor unusable entries end it."""

    Entry = BeatEntry
    lock_timeout: float

    def __init__(self, app: Any, **options: Any) -> None:
        app.redbeat_conf = conf = _Config(app)
        super().__init__(app, **options)
        try:
            self._check_config(conf)
        except ConfigurationError as error:
            raise SystemExit(f"error: {error}") from None
        self.leader_key = conf.lock_key or f"{entry_format.KEY_PREFIX}:lock"
        # RedBeat acquires its lock once, when beat starts, waits for it there forever, and exits when it is lost.
        # Without a `lock_key` it leaves the lock to this class.
        self.lock_key = None
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._token = secrets.token_hex(16)
        self._is_leader: bool | None = None
        self._failures = 0
        # Bytes in and out: one entry that is not UTF-8 would otherwise make every response unreadable. One immediate
        # retry: the scripts may run twice, and a connection may have died while idle.
        options = {"retry": Retry(NoBackoff(), 1), **conf.redbeat_redis_options, "decode_responses": False}
        self._client = client = redis.Redis.from_url(conf.redis_url, **options)
        self._read = client.register_script(scripts.READ)
        self._commit = client.register_script(scripts.COMMIT)
        self._quarantine = client.register_script(scripts.QUARANTINE)
        self._release = client.register_script(scripts.RELEASE)

    def setup_schedule(self) -> None:
        """Write nothing, because the relay writes the schedule.

        Entries in `beat_schedule` are ignored: they would have no history.
        """
        ignored = sorted(self.app.conf.beat_schedule)
        if ignored:
            _log.error("beat_static_schedule_ignored", entries=ignored, hint="give the job a schedule instead")

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Report due entries; return in how many seconds to tick again."""
        try:
            seconds = self._run_tick()
        except redis.ResponseError as error:
            return 0.0 if self._discard_foreign_keys() else self._back_off(error)
        except redis.RedisError as error:
            return self._back_off(error)
        if self._failures:
            _log.info("beat_redis_answers_again", failures=self._failures)
            self._failures = 0
        return seconds

    def close(self) -> None:
        """Release the lock, so that another beat leads at once. Celery calls this more than once."""
        if self._is_leader:
            self._is_leader = None
            try:
                self._release(keys=[self.leader_key], args=[self._token])
            except redis.RedisError as error:
                _log.warning("beat_lock_not_released", error=str(error), expires_in=self.lock_timeout)
        super().close()

    @property
    def info(self) -> str:
        """The line about the schedule in Celery's banner."""
        return f"       . schedule -> {entry_format.SCHEDULE_KEY}, lock {self.leader_key} ({self.lock_timeout:g}s)"

    def _check_config(self, conf: Any) -> None:
        if conf.key_prefix != entry_format.KEY_PREFIX:
            raise ConfigurationError(
                f"redbeat_key_prefix must stay {entry_format.KEY_PREFIX!r}: the relay writes under it"
            )
        if self.lock_timeout < _LOCK_TICKS * self.max_interval:
            raise ConfigurationError(
                f"redbeat_lock_timeout is {self.lock_timeout:g} s; with beat_max_loop_interval (--max-interval) "
                f"{self.max_interval:g} s it must be at least {_LOCK_TICKS * self.max_interval:g} s, "
                "or two beats take turns"
            )

    def _run_tick(self) -> float:
        lock_ms = int(self.lock_timeout * 1000)
        answer = self._read(
            keys=[self.leader_key, entry_format.SCHEDULE_KEY, keys.BEAT, keys.EVENTS],
            args=[self._token, lock_ms, self.name, BATCH_SIZE, DATA_VERSION],
        )
        self._log_role_change(answer is not None)
        if answer is None:
            return float(self.max_interval)
        reading = ScheduleSnapshot.from_answer(answer)
        nexts = self._report_due(reading)
        if len(reading.due) == BATCH_SIZE:
            return 0.0
        return self._compute_sleep([*nexts, *reading.next_times], reading.now)

    def _compute_sleep(self, moments: Iterable[dt.datetime], now: dt.datetime) -> float:
        seconds = min(((moment - now).total_seconds() for moment in moments), default=math.inf)
        return float(min(max(seconds, _MIN_SLEEP_SECONDS), self.max_interval))

    def _report_due(self, snapshot: ScheduleSnapshot) -> list[dt.datetime]:
        """Report and advance due entries; return when these are due again."""
        occurrences = []
        for due in snapshot.due:
            try:
                occurrences.append(self._build_report(due, snapshot.now))
            except UnusableEntry as error:
                self._quarantine_entry(due, snapshot.now, str(error))
        if occurrences:
            arguments = [argument for occurrence in occurrences for argument in occurrence.to_arguments()]
            self._commit(keys=[self.leader_key, entry_format.SCHEDULE_KEY, keys.EVENTS], args=[self._token, *arguments])
        return [occurrence.next_at for occurrence in occurrences if occurrence.next_at is not None]

    def _build_report(self, entry: DueEntry, now: dt.datetime) -> DueReport:
        """Return the report of an entry and its next occurrence; raises `UnusableEntry`."""
        schedule_id = _parse_schedule_id(entry)
        # Without the name, definitions of one job with one rule are equal, so that they share a cached schedule.
        schedule = _decode_schedule(entry.definition.replace(b'"name": "%b"' % schedule_id.encode(), b'"name": ""', 1))
        try:
            nominal = entry_format.from_score(entry.score)
            # After an outage one report is enough: the relay evaluates every occurrence that was due until now.
            following = schedule.find_next_after(max(nominal, now))
        except (ValueError, OverflowError) as error:
            raise UnusableEntry(f"its next time cannot be computed: {error!r}") from error
        return DueReport(entry, entry_format.encode_due_event(schedule_id, nominal), following)

    def _quarantine_entry(self, entry: DueEntry, now: dt.datetime, reason: str) -> None:
        score = entry.score.decode(errors="backslashreplace")
        record = json.dumps({"reason": reason, "score": score, "at": now.isoformat()})
        is_quarantined = self._quarantine(
            keys=[self.leader_key, entry_format.SCHEDULE_KEY, keys.BEAT_QUARANTINE],
            args=[self._token, entry.key, entry.score, entry.definition, record],
        )
        if is_quarantined:
            _log.error("beat_entry_quarantined", entry=entry.name, reason=reason)

    def _discard_foreign_keys(self) -> bool:
        """Delete foreign values under beat's keys; return whether there were any."""
        try:
            discarded = beat_keys.discard_foreign_keys(self._client, {**beat_keys.KEY_TYPES, self.leader_key: "string"})
        except redis.RedisError:
            return False
        for key in discarded:
            _log.error("beat_key_of_another_type", key=key)
        return bool(discarded)

    def _log_role_change(self, leads: bool) -> None:
        if leads is not self._is_leader:
            _log.info("beat_leads" if leads else "beat_stands_by", name=self.name, lock=self.leader_key)
            self._is_leader = leads

    def _back_off(self, error: redis.RedisError) -> float:
        seconds = min(_MIN_BACKOFF_SECONDS * 2.0 ** min(self._failures, 10), _MAX_BACKOFF_SECONDS)
        self._failures += 1
        _log.warning("beat_redis_does_not_answer", error=str(error), again_in=seconds)
        return seconds


def _parse_schedule_id(entry: DueEntry) -> str:
    try:
        return entry.key.decode().removeprefix(entry_format.KEY_PREFIX)
    except UnicodeDecodeError as error:
        raise UnusableEntry(f"its key cannot be read: {error!r}") from error


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _decode_schedule(definition: bytes) -> RuleSchedule:
    """Return the schedule in a definition; raises `UnusableEntry`."""
    if not definition:
        raise UnusableEntry("it has no definition")
    try:
        decoded = BeatEntry.decode_definition(definition)
        schedule, enabled = decoded["schedule"], decoded.get("enabled", True)
    except Exception as error:  # The content is arbitrary and must not affect other entries.
        raise UnusableEntry(f"its definition cannot be read: {error!r}") from error
    if not isinstance(schedule, RuleSchedule):
        raise UnusableEntry("its schedule is not a rule of JobWorker; give the job a schedule instead")
    if not enabled:
        raise UnusableEntry("it was disabled here; disable the job instead")
    return schedule


def _parse_times(score: bytes) -> tuple[dt.datetime, ...]:
    """Return when an entry with this score is due; empty for no score, or a score that is not a finite time."""
    try:
        return (entry_format.from_score(score),)
    except (ValueError, OverflowError):
        return ()
