"""The time zone data that schedules were worked out with, and which schedules have to follow others."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.schedules.schedule import ScheduleState
from jobworker.store.tables.schedules import job_schedules, zone_data


@dataclass(frozen=True, slots=True)
class ScheduleTimeUpdate:
    """How far a schedule has come, and when it is due next, by other data."""

    id: str
    settled_until: dt.datetime
    next_at: dt.datetime | None
    state: str


def get_version(connection: sa.Connection) -> str | None:
    """Read the version of the data; None: no relay has noted any."""
    return connection.scalar(sa.select(zone_data.c.version))


def get_zones(connection: sa.Connection) -> bytes | None:
    """Read the data themselves."""
    return connection.scalar(sa.select(zone_data.c.zones))


def upsert(connection: sa.Connection, version: str, zones: bytes) -> None:
    """Note the data by which schedules are worked out from now on."""
    connection.execute(sa.delete(zone_data))
    connection.execute(sa.insert(zone_data).values(id=1, version=version, zones=zones))


def list_schedule_ids(connection: sa.Connection, after: str, limit: int) -> list[str]:
    """Find schedules of which something may be due: the first ids behind this one, "" is before all of them."""
    ahead = job_schedules.c.enabled, job_schedules.c.state != ScheduleState.RETIRED.value
    query = (
        sa.select(job_schedules.c.id)
        .where(job_schedules.c.id > after, *ahead)
        .order_by(job_schedules.c.id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def update_schedules(connection: sa.Connection, updates: Sequence[ScheduleTimeUpdate], now: dt.datetime) -> None:
    """Write down how schedules stand by other data; beat follows those that were changed."""
    for each in updates:
        values = {"settled_until": each.settled_until, "next_at": each.next_at, "state": each.state, "changed_at": now}
        connection.execute(sa.update(job_schedules).where(job_schedules.c.id == each.id).values(values))
