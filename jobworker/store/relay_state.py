"""The relay's one row: how far it has read, which Redis it follows, who leads."""

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.store.schema import relay_state

_THE_ROW = relay_state.c.id == 1


@dataclass(frozen=True, slots=True)
class RelayState:
    """`republish_at` is set while the relay waits for workers to speak up after Redis lost its data."""

    epoch: str | None
    events_offset: str
    logs_offset: str
    leader: str | None
    leader_until: dt.datetime | None
    turned_at: dt.datetime | None
    beat_tick_at: dt.datetime | None
    republish_at: dt.datetime | None


def get(connection: sa.Connection) -> RelayState:
    """The row as it stands."""
    row = connection.execute(sa.select(relay_state).where(_THE_ROW)).one()._mapping
    return RelayState(**{name: row[name] for name in RelayState.__dataclass_fields__})


def lead(connection: sa.Connection, leader: str, now: dt.datetime, until: dt.datetime) -> bool:
    """Become or stay the leader until `until`; False if another one leads."""
    free = sa.or_(relay_state.c.leader.is_(None), relay_state.c.leader == leader, relay_state.c.leader_until < now)
    changed = connection.execute(
        sa.update(relay_state)
        .where(_THE_ROW, free)
        .values(
            leader=leader,
            leader_until=until,
            turned_at=now,
            logged_through=sa.func.coalesce(relay_state.c.logged_through, "0-0"),
        )
    )
    return changed.rowcount == 1


def leads(connection: sa.Connection, leader: str) -> bool:
    """Whether this relay leads, and nobody else will before the transaction ends."""
    return connection.scalar(sa.select(relay_state.c.leader).where(_THE_ROW).with_for_update()) == leader


def resign(connection: sa.Connection, leader: str) -> None:
    """Let another relay lead at once."""
    connection.execute(
        sa.update(relay_state).where(_THE_ROW, relay_state.c.leader == leader).values(leader=None, leader_until=None)
    )


def advance(
    connection: sa.Connection,
    leader: str,
    times: tuple[dt.datetime, dt.datetime],
    before: tuple[str, str],
    after: tuple[str, str],
    logs_complete: bool,
) -> bool:
    """Move the (events, logs) offsets on, and lead until the second of `times` (now, until).

    `logs_complete`: every line that was written before the events up to here is recorded with them, or was before.

    Belongs into the transaction that writes what was read. False, with nothing changed, if another relay
    leads or has read on: then nothing may be written.
    """
    now, until = times
    changed = connection.execute(
        sa.update(relay_state)
        .where(
            _THE_ROW,
            relay_state.c.leader == leader,
            relay_state.c.events_offset == before[0],
            relay_state.c.logs_offset == before[1],
        )
        .values(
            events_offset=after[0],
            logs_offset=after[1],
            logged_through=after[0] if logs_complete else relay_state.c.logged_through,
            turned_at=now,
            leader_until=until,
        )
    )
    return changed.rowcount == 1


def follow(connection: sa.Connection, epoch: str, republish_at: dt.datetime | None) -> None:
    """Start over with a Redis data set that is new to us."""
    connection.execute(
        sa.update(relay_state)
        .where(_THE_ROW)
        .values(epoch=epoch, events_offset="0-0", logs_offset="0-0", republish_at=republish_at)
    )


def republished(connection: sa.Connection) -> None:
    """The wait after a loss of data is over."""
    connection.execute(sa.update(relay_state).where(_THE_ROW).values(republish_at=None))


def beat_ticked(connection: sa.Connection, at: dt.datetime) -> None:
    """Remember when beat last looked at the schedule."""
    connection.execute(sa.update(relay_state).where(_THE_ROW).values(beat_tick_at=at))
