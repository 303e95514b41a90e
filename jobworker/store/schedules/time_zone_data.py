"""Time zone data by which the times of schedules were computed, and updates of schedules after a change of the data."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.schedules.schedule import ScheduleState
from jobworker.store.tables.schedules import job_schedules, zone_data


@dataclass(frozen=True, slots=True)
class ScheduleTimeUpdate:
    """Progress and next due time of a schedule, computed with other time zone data."""

    id: str
    settled_until: dt.datetime
    next_at: dt.datetime | None
    state: str


def get_version(connection: sa.Connection) -> str | None:
    """Return the version of the data; None if no relay has stored any."""
    return connection.scalar(sa.select(zone_data.c.version))


def get_zones(connection: sa.Connection) -> bytes | None:
    """Return the data themselves."""
    return connection.scalar(sa.select(zone_data.c.zones))


def upsert(connection: sa.Connection, version: str, zones: bytes) -> None:
    """Replace the data by which the times of schedules are computed."""
    connection.execute(sa.delete(zone_data))
    connection.execute(sa.insert(zone_data).values(id=1, version=version, zones=zones))


def list_schedule_ids(connection: sa.Connection, after: str, limit: int) -> list[str]:
    """Return the next `limit` ids after this id of schedules that may become due; "" precedes all ids."""
    ahead = job_schedules.c.enabled, job_schedules.c.state != ScheduleState.RETIRED.value
    query = (
        sa.select(job_schedules.c.id)
        .where(job_schedules.c.id > after, *ahead)
        .order_by(job_schedules.c.id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def update_schedules(connection: sa.Connection, updates: Sequence[ScheduleTimeUpdate], now: dt.datetime) -> None:
    """Write the times of schedules computed with other data, and their change time, by which beat finds them."""
    for update in updates:
        values = {
            "settled_until": update.settled_until,
            "next_at": update.next_at,
            "state": update.state,
            "changed_at": now,
        }
        connection.execute(sa.update(job_schedules).where(job_schedules.c.id == update.id).values(values))
