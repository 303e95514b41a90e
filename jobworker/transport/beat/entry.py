"""RedBeat's entry and its JSON, extended by JobWorker's rules. RedBeat's own tools can read and save the entries."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from celery.schedules import BaseSchedule, schedstate
from redbeat.decoder import RedBeatJSONDecoder, RedBeatJSONEncoder
from redbeat.schedulers import RedBeatSchedulerEntry, get_redis

from jobworker.domain.calendars import calendar_parser
from jobworker.domain.schedules import timetable
from jobworker.domain.schedules.schedule import parse
from jobworker.transport.beat import entry_format

#: Fields that a complete schedule requires and that have no effect here.
_PLACEHOLDER_FIELDS = {"name": "entry", "job": "entry"}


class RuleSchedule(BaseSchedule):
    """A timetable of JobWorker as a Celery schedule; `timetable_json` is in the format of `encode_definition`."""

    def __init__(self, timetable_json: Mapping[str, Any], app: Any = None) -> None:
        super().__init__(app=app)
        self.timetable_json = dict(timetable_json)
        inline = self.timetable_json.get("calendars", {})
        calendars = {name: calendar_parser.parse(calendar) for name, calendar in inline.items()}
        spec = {name: value for name, value in self.timetable_json.items() if name != "calendars"}
        self._timetable = parse({**_PLACEHOLDER_FIELDS, **spec}).build_timetable(calendars)
        self._cached_after: dt.datetime | None = None
        self._cached_occurrence: dt.datetime | None = None

    def find_next_after(self, moment: dt.datetime) -> dt.datetime | None:
        """Return the first occurrence strictly after `moment`. The latest result is cached, because calls repeat it."""
        # There is no occurrence between the cached moment and the cached result.
        if (
            self._cached_after is None
            or moment < self._cached_after
            or (self._cached_occurrence is not None and moment >= self._cached_occurrence)
        ):
            self._cached_occurrence = timetable.find_next_time(self._timetable, moment)
            self._cached_after = moment
        return self._cached_occurrence

    def remaining_estimate(self, last_run_at: dt.datetime) -> dt.timedelta | None:
        """Return the time from now to the first occurrence after `last_run_at`: negative if past, None without one."""
        following = self.find_next_after(last_run_at)
        return None if following is None else following - self.now()

    def is_due(self, last_run_at: dt.datetime) -> Any:
        """Return whether that occurrence is due, and in how many seconds to check again."""
        remaining = self.remaining_estimate(last_run_at)
        if remaining is None:
            return schedstate(is_due=False, next=None)
        seconds = remaining.total_seconds()
        return schedstate(is_due=seconds <= 0, next=max(seconds, 0.0))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSchedule) and other.timetable_json == self.timetable_json

    def __repr__(self) -> str:
        return f"<{entry_format.RULE_TYPE}: {self.timetable_json}>"


class EntryDecoder(RedBeatJSONDecoder):
    """Decodes the rules that `EntryEncoder` writes."""

    def dict_to_object(self, d: dict[str, Any]) -> Any:
        """Return the object for a JSON object; called for the inner ones first."""
        if d.get("__type__") == entry_format.RULE_TYPE:
            return RuleSchedule(d["rule"])
        return super().dict_to_object(d)


class EntryEncoder(RedBeatJSONEncoder):
    """Encodes rules as `{"__type__": "jobworker.rule", "rule": …}`."""

    def default(self, obj: Any) -> Any:
        """Return a JSON value for an object that JSON does not support."""
        if isinstance(obj, RuleSchedule):
            return {"__type__": entry_format.RULE_TYPE, "rule": obj.timetable_json}
        return super().default(obj)


class BeatEntry(RedBeatSchedulerEntry):
    """RedBeat's entry of a schedule. Its name is the schedule's id, its task is the job."""

    @staticmethod
    def decode_definition(definition: str | bytes) -> Any:
        """Return the definition, with the rule as a `RuleSchedule`."""
        return json.loads(definition, cls=EntryDecoder)

    @property
    def due_at(self) -> dt.datetime | None:
        """The first occurrence after the last run (RedBeat's own computation is wrong when clocks change)."""
        occurrence: dt.datetime | None = self.schedule.find_next_after(self.last_run_at or self.schedule.now())
        return occurrence

    @property
    def score(self) -> float:
        """The first occurrence as an exact score of the sorted set; a negative score means never."""
        due_at = self.due_at
        return -1.0 if due_at is None else float(entry_format.to_score(due_at))

    def save(self) -> "BeatEntry":
        """Write the entry unchanged (RedBeat's method is bound to its own encoder)."""
        names = ("name", "task", "args", "kwargs", "options", "schedule", "enabled")
        definition = {name: getattr(self, name) for name in names}
        with get_redis(self.app).pipeline() as pipeline:
            pipeline.hset(
                self.key, entry_format.DEFINITION_FIELD, json.dumps(definition, cls=EntryEncoder, sort_keys=True)
            )
            pipeline.zadd(self.app.redbeat_conf.schedule_key, {self.key: self.score})
            pipeline.execute()
        return self
