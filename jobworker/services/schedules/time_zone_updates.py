"""Updates of time zone data: the versions that processes use, and how schedules move when the relay's data change.

The data by which next times were computed are stored in SQL. Next times by the stored data and by those of this process
can therefore be compared before schedules move, and an evaluated occurrence is recognized at its new time.
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
from jobworker.store.database.database import Database
from jobworker.store.schedules import due_schedules, time_zone_data
from jobworker.store.schedules.time_zone_data import ScheduleTimeUpdate
from jobworker.transport.beat import beat_keys

logger = structlog.get_logger(__name__)

#: Number of schedules processed per transaction.
_PAGE_SIZE = 200

#: Maximum number of processes named per version of the data.
_MAX_NAMES_SHOWN = 5

#: Name of the data in use before any version was stored in SQL.
_HOST_DATA_VERSION = "the data of the host"


@dataclass(frozen=True, slots=True)
class ScheduleMove:
    """A schedule whose next time differs by the data of this process."""

    schedule: str
    zone: str
    before: dt.datetime | None
    after: dt.datetime | None

    def describe(self) -> str:
        """Return a one-line description."""
        change = f" ({_format_shift(self.after - self.before)})" if self.before and self.after else ""
        before, after = _format_time(self.before), _format_time(self.after)
        return f"{self.schedule} ({self.zone}): next at {after} instead of {before}{change}"


@dataclass(frozen=True, slots=True)
class PendingMoves:
    """Moves that a relay with the data of this process will make, and the version of the data now in force."""

    version: str
    moves: Sequence[ScheduleMove]


class ScheduleTimes(ScheduleIdentity, Protocol):
    """The fields of a schedule from which its move is computed."""

    @property
    def settled_until(self) -> dt.datetime: ...
    @property
    def next_at(self) -> dt.datetime | None: ...


Row = TypeVar("Row", bound=ScheduleTimes)

#: Zones with the previous data, if these differ from the data of this process; by the version in force.
_changed_zones_cache: dict[str | None, Mapping[str, zoneinfo.ZoneInfo]] = {}


def apply_zone_data(database: Database, clock: Clock, check_leadership: Callable[[sa.Connection], None]) -> None:
    """Recompute all schedules with the data of this process, and log those that move.

    Schedules are processed in pages; `check_leadership` is called in each transaction and raises if another relay is
    the leader. An interrupted update is repeated by the next leader.
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
    if before or looked_at:  # A new database has nothing to report.
        logger.info(
            "time_zone_data_followed", before=before or _HOST_DATA_VERSION, now=DATA_VERSION, schedules_moved=count
        )


def find_pending_moves(connection: sa.Connection) -> PendingMoves | None:
    """Find the schedules that a relay with the data of this process will move; None: its data are in force."""
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
    """Return the moves of those schedules that will move, by id."""
    changed = _load_changed_zones(connection) if changed is None else changed
    return {row.id: move for row, _, move in _compute_moves(rows, compiled, changed) if move is not None}


def describe_disagreement(connection: sa.Connection, client: redis.Redis) -> str | None:
    """Describe which processes have other data than this one, and the remedy; None: no process has."""
    others: defaultdict[str, set[str]] = defaultdict(set)
    for process, version in _list_versions(connection, client):
        if version != DATA_VERSION:
            others[version].add(process)
    if not others:
        return None
    versions = "; ".join(f"{version}: {_format_names(sorted(names))}" for version, names in sorted(others.items()))
    return (
        f"this process on {socket.gethostname()} has {DATA_VERSION}, others have {versions}. Schedules are computed "
        "with the relay's data: install the same version of tzdata on every host and restart what runs there"
    )


def _list_versions(connection: sa.Connection, client: redis.Redis) -> Iterator[tuple[str, str]]:
    """Yield the data versions that processes have reported: (process and host, version)."""
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
    moves = list(_compute_moves(rows, compiler.compile_schedules(connection, rows), changed))
    followed = [
        ScheduleTimeUpdate(row.id, *stands, _compute_state(row.state, row.next_at, stands[1]))
        for row, stands, _ in moves
        if stands != (row.settled_until, row.next_at)
    ]
    time_zone_data.update_schedules(connection, followed, now)
    return [move for _, _, move in moves if move is not None]


def _compute_moves(
    rows: Sequence[Row], compiled: Mapping[str, CompiledSchedule], changed: Mapping[str, zoneinfo.ZoneInfo]
) -> Iterator[tuple[Row, tuple[dt.datetime, dt.datetime | None], ScheduleMove | None]]:
    """Yield the schedules of changed zones, each with its recomputed times and its move (None: unmoved)."""
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
    """Return the state after a move: exhausted without a next time, active if it gains its first next time."""
    if after is None:
        return ScheduleState.EXHAUSTED.value
    return ScheduleState.ACTIVE.value if before is None else state


def _load_changed_zones(connection: sa.Connection) -> Mapping[str, zoneinfo.ZoneInfo]:
    """Return those zones, with the previous data, whose data differ from those of this process."""
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
    """Read the data of all zones from the tzdata package."""
    root = importlib.resources.files("tzdata.zoneinfo")
    return {name: root.joinpath(*name.split("/")).read_bytes() for name in sorted(get_zone_names())}


def _read_host_data() -> dict[str, bytes]:
    """Read the host's data, which earlier releases used; zones that the host lacks are left out.

    Earlier releases read these zones from the package.
    """
    zone_data = {}
    for name in get_zone_names():
        path = next((path for folder in HOST_FOLDERS if (path := Path(folder, name)).is_file()), None)
        if path is not None:
            zone_data[name] = path.read_bytes()
    return zone_data


def _pack(zones: Mapping[str, bytes]) -> bytes:
    return zlib.compress(orjson.dumps({name: base64.b64encode(data).decode() for name, data in zones.items()}))


def _unpack(packed: bytes) -> dict[str, bytes]:
    return {name: base64.b64decode(data) for name, data in orjson.loads(zlib.decompress(packed)).items()}


def _format_time(moment: dt.datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "no time"


def _format_shift(change: dt.timedelta) -> str:
    return f"{abs(change)} {'later' if change > dt.timedelta(0) else 'earlier'}"
