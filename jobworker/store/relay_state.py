"""The relay's one row: how far it has read, which Redis it follows, who leads."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from jobworker.domain.executions import events
from jobworker.store import unreadable_rows
from jobworker.store.tables.core import relay_state

_IS_RELAY_ROW = relay_state.c.id == 1


class Tenure(NamedTuple):
    """A relay's leadership as it stood at one moment: a leader that lives changes the count every second."""

    leader: str | None
    renewals: int


@dataclass(frozen=True, slots=True)
class RelayState:
    """`republish_at` is set while the relay waits for workers to speak up after Redis lost its data."""

    epoch: str | None
    events_offset: str
    logs_offset: str
    leader: str | None
    renewals: int
    turned_at: dt.datetime | None
    beat_tick_at: dt.datetime | None
    republish_at: dt.datetime | None

    @property
    def tenure(self) -> Tenure:
        """Who leads, and how often that was renewed."""
        return Tenure(self.leader, self.renewals)


def get(connection: sa.Connection) -> RelayState:
    """The row as it stands."""
    row = connection.execute(sa.select(relay_state).where(_IS_RELAY_ROW)).one()._mapping
    return RelayState(**{name: row[name] for name in RelayState.__dataclass_fields__})


def acquire_leadership(
    connection: sa.Connection, leader: str, now: dt.datetime, silent_tenure: Tenure | None = None
) -> bool:
    """Become or stay the leader; False if another one leads. `silent_tenure`: a leadership that was not renewed for too long.

    No clock decides: whoever takes over has watched for itself that the count stood still.
    """
    free = [relay_state.c.leader.is_(None), relay_state.c.leader == leader]
    if silent_tenure is not None:
        free.append(
            sa.and_(relay_state.c.leader == silent_tenure.leader, relay_state.c.renewals == silent_tenure.renewals)
        )
    changed = connection.execute(
        sa.update(relay_state)
        .where(_IS_RELAY_ROW, sa.or_(*free))
        .values(
            leader=leader,
            renewals=relay_state.c.renewals + 1,
            turned_at=now,
            logged_through=sa.func.coalesce(relay_state.c.logged_through, "0-0"),
        )
    )
    return changed.rowcount == 1


def restore_offsets(connection: sa.Connection) -> tuple[str, str]:
    """Return the (events, logs) offsets. One that is no id of an entry is set to the beginning of its stream.

    What is read again from there is recorded once all the same.
    """
    row = connection.execute(
        sa.select(relay_state.c.events_offset, relay_state.c.logs_offset).where(_IS_RELAY_ROW)
    ).one()
    wrong = {name: "0-0" for name, value in row._mapping.items() if not events.is_stream_id(value)}
    if wrong:
        unreadable_rows.report(
            "row of the relay", f"{', '.join(wrong)} cannot be read; that stream is read from its beginning"
        )
        connection.execute(sa.update(relay_state).where(_IS_RELAY_ROW).values(wrong))
    return (wrong.get("events_offset", row.events_offset), wrong.get("logs_offset", row.logs_offset))


def is_leader(connection: sa.Connection, leader: str) -> bool:
    """Whether this relay leads, and nobody else will before the transaction ends."""
    return connection.scalar(sa.select(relay_state.c.leader).where(_IS_RELAY_ROW).with_for_update()) == leader


def release_leadership(connection: sa.Connection, leader: str) -> None:
    """Let another relay lead at once."""
    connection.execute(sa.update(relay_state).where(_IS_RELAY_ROW, relay_state.c.leader == leader).values(leader=None))


def advance_offsets(
    connection: sa.Connection,
    leader: str,
    now: dt.datetime,
    before: tuple[str, str],
    after: tuple[str, str],
    logs_complete: bool,
) -> bool:
    """Move the (events, logs) offsets on, and renew the leadership.

    `logs_complete`: every line that was written before the events up to here is recorded with them, or was before.

    Belongs into the transaction that writes what was read. False, with nothing changed, if another relay
    leads or has read on: then nothing may be written.
    """
    given = {"by": leader, "events": before[0], "logs": before[1], "now": now}
    given |= {"new_events": after[0], "new_logs": after[1], "complete": after[0] if logs_complete else None}
    return connection.execute(_ADVANCE_OFFSETS, given).rowcount == 1


# Run in every turn that read something; building it would cost more than running it.
_ADVANCE_OFFSETS = (
    sa.update(relay_state)
    .where(
        _IS_RELAY_ROW,
        relay_state.c.leader == sa.bindparam("by"),
        relay_state.c.events_offset == sa.bindparam("events"),
        relay_state.c.logs_offset == sa.bindparam("logs"),
    )
    .values(
        events_offset=sa.bindparam("new_events"),
        logs_offset=sa.bindparam("new_logs"),
        logged_through=sa.func.coalesce(
            sa.bindparam("complete", type_=relay_state.c.logged_through.type), relay_state.c.logged_through
        ),
        turned_at=sa.bindparam("now", type_=relay_state.c.turned_at.type),
        renewals=relay_state.c.renewals + 1,
    )
)


def start_epoch(connection: sa.Connection, epoch: str, republish_at: dt.datetime | None) -> None:
    """Start over with a Redis data set that is new to us."""
    connection.execute(
        sa.update(relay_state)
        .where(_IS_RELAY_ROW)
        .values(epoch=epoch, events_offset="0-0", logs_offset="0-0", republish_at=republish_at)
    )


def clear_republish_at(connection: sa.Connection) -> None:
    """The wait after a loss of data is over."""
    connection.execute(sa.update(relay_state).where(_IS_RELAY_ROW).values(republish_at=None))


def update_beat_tick(connection: sa.Connection, at: dt.datetime) -> None:
    """Remember when beat last looked at the schedule."""
    connection.execute(sa.update(relay_state).where(_IS_RELAY_ROW).values(beat_tick_at=at))


def update_problems(connection: sa.Connection, leader: str, problems: Sequence[dict[str, Any]]) -> None:
    """Keep what this relay could not use, in place of what was kept before; nothing if another relay leads."""
    connection.execute(
        sa.update(relay_state)
        .where(_IS_RELAY_ROW, relay_state.c.leader == leader)
        .values(problems=list(problems) or None)
    )


def get_problems(connection: sa.Connection) -> list[dict[str, str]]:
    """Return what the leader could not use lately, as far as it can be read."""
    found = connection.scalar(sa.select(relay_state.c.problems).where(_IS_RELAY_ROW))
    return [each for each in found if _is_problem(each)] if isinstance(found, list) else []


_is_problem = unreadable_rows.build_object_check(what=str, detail=str)
