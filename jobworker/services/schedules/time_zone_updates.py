"""Time zone data: which ones processes have, and what happens to schedules when the relay gets others.

The data by which schedules were worked out are kept in SQL. So what was due by them and is due by those of this process
can be told before anything follows, and an occurrence that was settled is recognized at its new moment.
"""

import base64
import contextlib
import datetime as dt
import importlib.resources
import io
import socket
import struct
import zlib
import zoneinfo
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import orjson
import redis
import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain.schedules.schedule import ScheduleState
from jobworker.domain.schedules.time_zones import DATA_VERSION, HOST_FOLDERS, get_zone_names
from jobworker.domain.schedules.timetable import recompute_for_zone
from jobworker.services.schedules import compiler
from jobworker.services.schedules.compiler import CompiledSchedule, ScheduleIdentity
from jobworker.store import relay_state, workers
from jobworker.store.engine.database import Database
from jobworker.store.schedules import due_schedules, time_zone_data
from jobworker.store.schedules.time_zone_data import ScheduleTimeUpdate
from jobworker.transport.beat import beat_keys

logger = structlog.get_logger(__name__)

#: Schedules that are worked out in one transaction.
_PAGE_SIZE = 200

#: Processes that are named for each version of the data.
_MAX_NAMES_SHOWN = 5

#: What schedules were worked out with before anything was noted.
_HOST_DATA_VERSION = "the data of the host"


@dataclass(frozen=True, slots=True)
class ScheduleMove:
    """A schedule that is due next at another time by the data of this process."""

    schedule: str
    zone: str
    before: dt.datetime | None
    after: dt.datetime | None

    def describe(self) -> str:
        """Word it in a line."""
        change = f" ({_format_shift(self.after - self.before)})" if self.before and self.after else ""
        return f"{self.schedule} ({self.zone}): next at {_format_time(self.after)} instead of {_format_time(self.before)}{change}"


@dataclass(frozen=True, slots=True)
class PendingMoves:
    """What waits for a relay with the data of this process: the version in force, and the schedules that move."""

    version: str
    moves: Sequence[ScheduleMove]


class ScheduleTimes(ScheduleIdentity, Protocol):
    """What has to be known of a schedule to work out how it moves."""

    @property
    def settled_until(self) -> dt.datetime: ...
    @property
    def next_at(self) -> dt.datetime | None: ...


Row = TypeVar("Row", bound=ScheduleTimes)

#: Zones whose data differ from those of this process, as they were, by the version in force.
_changed_zones_cache: dict[str | None, Mapping[str, zoneinfo.ZoneInfo]] = {}


def apply_zone_data(database: Database, clock: Clock, check_leadership: Callable[[sa.Connection], None]) -> None:
    """Let all schedules follow the data of this process, and log those that move.

    Some at a time; `check_leadership` is called in each transaction and raises if another relay leads. What was interrupted
    is repeated by the next relay that leads.
    """
    with database.read() as connection:
        before = time_zone_data.get_version(connection)
        if before == DATA_VERSION:
            return
        changed = _load_changed_zones(connection)
    looked_at, count, ids = 0, 0, [""]
    while ids:
        with database.write() as connection:
            check_leadership(connection)
            ids = time_zone_data.list_schedule_ids(connection, ids[-1], _PAGE_SIZE)
            moves = _move_schedules(connection, ids, changed, clock.now())
        looked_at, count = looked_at + len(ids), count + len(moves)
        for move in moves:
            logger.warning("schedule_moved", schedule=move.schedule, why=move.describe())
    with database.write() as connection:
        check_leadership(connection)
        time_zone_data.upsert(connection, DATA_VERSION, _pack(_read_package_data()))
    if before or looked_at:  # Not of a new database.
        logger.info(
            "time_zone_data_followed", before=before or _HOST_DATA_VERSION, now=DATA_VERSION, schedules_moved=count
        )


def find_pending_moves(connection: sa.Connection) -> PendingMoves | None:
    """Find what will move when a relay with the data of this process leads; None: the one that led has the same."""
    before = time_zone_data.get_version(connection)
    if before == DATA_VERSION:
        return None
    changed, moves, ids = _load_changed_zones(connection), list[ScheduleMove](), [""]
    while ids:
        ids = time_zone_data.list_schedule_ids(connection, ids[-1], _PAGE_SIZE)
        rows = due_schedules.get_many(connection, ids, lock=False)
        moves += find_moves(connection, rows, compiler.compile_schedules(connection, rows), changed).values()
    return PendingMoves(before or _HOST_DATA_VERSION, moves)


def find_moves(
    connection: sa.Connection,
    rows: Sequence[ScheduleTimes],
    compiled: Mapping[str, CompiledSchedule],
    changed: Mapping[str, zoneinfo.ZoneInfo] | None = None,
) -> dict[str, ScheduleMove]:
    """Find those of these schedules that will move, by id."""
    changed = _load_changed_zones(connection) if changed is None else changed
    return {row.id: move for row, _, move in _compute_moves(rows, compiled, changed) if move is not None}


def describe_disagreement(connection: sa.Connection, client: redis.Redis) -> str | None:
    """Say which processes have other data than this one, and what to do; None: all that are known have the same."""
    others: defaultdict[str, set[str]] = defaultdict(set)
    for process, version in _list_versions(connection, client):
        if version != DATA_VERSION:
            others[version].add(process)
    if not others:
        return None
    told = "; ".join(f"{version}: {_format_names(sorted(names))}" for version, names in sorted(others.items()))
    return (
        f"this process on {socket.gethostname()} has {DATA_VERSION}, others have {told}. Schedules are worked out by "
        "the relay's: install the same version of tzdata on every host and restart what runs there"
    )


def _list_versions(connection: sa.Connection, client: redis.Redis) -> Iterator[tuple[str, str]]:
    """What processes say: (process and host, version)."""
    leader, version = relay_state.get(connection).leader, time_zone_data.get_version(connection)
    if leader and version:
        yield f"relay {leader}", version
    for row in workers.list_live(connection):
        if row.zone_data:
            yield f"workers on {row.host}", row.zone_data
    with contextlib.suppress(redis.RedisError):
        if (beat := beat_keys.get_zone_data(client)) is not None:
            yield f"beat {beat[0]}", beat[1]


def _format_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
    return ", ".join(names[:_MAX_NAMES_SHOWN]) + more


def _move_schedules(
    connection: sa.Connection, ids: Sequence[str], changed: Mapping[str, zoneinfo.ZoneInfo], now: dt.datetime
) -> list[ScheduleMove]:
    rows = due_schedules.get_many(connection, ids)
    found = list(_compute_moves(rows, compiler.compile_schedules(connection, rows), changed))
    followed = [
        ScheduleTimeUpdate(row.id, *stands, _compute_state(row.state, row.next_at, stands[1]))
        for row, stands, _ in found
        if stands != (row.settled_until, row.next_at)
    ]
    time_zone_data.update_schedules(connection, followed, now)
    return [move for _, _, move in found if move is not None]


def _compute_moves(
    rows: Sequence[Row], compiled: Mapping[str, CompiledSchedule], changed: Mapping[str, zoneinfo.ZoneInfo]
) -> Iterator[tuple[Row, tuple[dt.datetime, dt.datetime | None], ScheduleMove | None]]:
    """Work out how schedules of changed zones stand by the data of this process, and how they move if they do."""
    for row in rows:
        plan = compiled.get(row.id)
        before = changed.get(plan.schedule.zone) if plan else None
        if plan is None or before is None:
            continue
        try:
            stands = recompute_for_zone(plan.timetable, before, row.settled_until, row.next_at)
        except compiler.EVALUATION_ERRORS as error:
            compiler.report_unreadable(row, error)
            continue
        moves = stands[1] != row.next_at
        yield row, stands, ScheduleMove(row.name, plan.schedule.zone, row.next_at, stands[1]) if moves else None


def _compute_state(state: str, before: dt.datetime | None, after: dt.datetime | None) -> str:
    """A schedule with nothing ahead is exhausted, and one that had nothing ahead and has now is active."""
    if after is None:
        return ScheduleState.EXHAUSTED.value
    return ScheduleState.ACTIVE.value if before is None else state


def _load_changed_zones(connection: sa.Connection) -> Mapping[str, zoneinfo.ZoneInfo]:
    """The zones as they were whose data differ from those of this process."""
    version = time_zone_data.get_version(connection)
    if version == DATA_VERSION:
        return {}
    if version not in _changed_zones_cache:
        before, now = _load_previous_data(time_zone_data.get_zones(connection)), _read_package_data()
        _changed_zones_cache.clear()
        _changed_zones_cache[version] = {
            name: zone
            for name, data in before.items()
            if now.get(name, data) != data and (zone := _build_zone(name, data))
        }
    return _changed_zones_cache[version]


def _load_previous_data(packed: bytes | None) -> dict[str, bytes]:
    if packed is None:
        return _read_host_data()
    try:
        return _unpack(packed)
    except (zlib.error, AttributeError, TypeError, ValueError) as error:
        logger.error("time_zone_data_unreadable", table="zone_data", error=repr(error))
        return _read_host_data()


def _build_zone(name: str, data: bytes) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo.from_file(io.BytesIO(data), key=name)
    except (IndexError, ValueError, struct.error) as error:
        logger.error("time_zone_data_unreadable", zone=name, error=repr(error))
        return None


def _read_package_data() -> dict[str, bytes]:
    """The data of every zone, as the package has them."""
    root = importlib.resources.files("tzdata.zoneinfo")
    return {name: root.joinpath(*name.split("/")).read_bytes() for name in sorted(get_zone_names())}


def _read_host_data() -> dict[str, bytes]:
    """The host's own, which earlier releases read; of what the host does not have, they took those of the package."""
    found = {}
    for name in get_zone_names():
        path = next((path for folder in HOST_FOLDERS if (path := Path(folder, name)).is_file()), None)
        if path is not None:
            found[name] = path.read_bytes()
    return found


def _pack(zones: Mapping[str, bytes]) -> bytes:
    return zlib.compress(orjson.dumps({name: base64.b64encode(data).decode() for name, data in zones.items()}))


def _unpack(packed: bytes) -> dict[str, bytes]:
    return {name: base64.b64decode(data) for name, data in orjson.loads(zlib.decompress(packed)).items()}


def _format_time(moment: dt.datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "no time"


def _format_shift(change: dt.timedelta) -> str:
    return f"{abs(change)} {'later' if change > dt.timedelta(0) else 'earlier'}"
