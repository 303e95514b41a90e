"""The relay's only row: its stream offsets, the Redis data set it follows, and the leader."""

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
    """Leadership of a relay at one moment: a live leader increments `renewals` every second."""

    leader: str | None
    renewals: int


@dataclass(frozen=True, slots=True)
class RelayState:
    """Row of the relay; `republish_at` is set while the relay waits for reports after a loss of Redis data."""

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
        """The leader and the number of its renewals."""
        return Tenure(self.leader, self.renewals)


def get(connection: sa.Connection) -> RelayState:
    """Return the current row."""
    row = connection.execute(sa.select(relay_state).where(_IS_RELAY_ROW)).one()._mapping
    return RelayState(**{name: row[name] for name in RelayState.__dataclass_fields__})


def acquire_leadership(
    connection: sa.Connection, leader: str, now: dt.datetime, silent_tenure: Tenure | None = None
) -> bool:
    """Acquire or keep the leadership; return False if another relay leads.

    `silent_tenure` is a tenure that was not renewed for too long, which this relay may replace. No clock decides:
    the relay that takes over has observed itself that `renewals` did not change.
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
    """Return the (events, logs) offsets; reset an offset that is not a stream id to the beginning of its stream.

    Entries that are read again are still recorded only once.
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
    """Return whether this relay leads; lock the row, so that no other relay can lead until the transaction ends."""
    return connection.scalar(sa.select(relay_state.c.leader).where(_IS_RELAY_ROW).with_for_update()) == leader


def release_leadership(connection: sa.Connection, leader: str) -> None:
    """Release the leadership, so that another relay can lead at once."""
    connection.execute(sa.update(relay_state).where(_IS_RELAY_ROW, relay_state.c.leader == leader).values(leader=None))


def advance_offsets(
    connection: sa.Connection,
    leader: str,
    now: dt.datetime,
    before: tuple[str, str],
    after: tuple[str, str],
    logs_complete: bool,
) -> bool:
    """Advance the (events, logs) offsets, and renew the leadership.

    `logs_complete`: every log line written before the events up to the new offset is recorded in this transaction,
    or was recorded earlier.

    Must be called in the transaction that writes the entries. Returns False and changes nothing if another relay
    leads or has advanced the offsets: then the caller must not write anything.
    """
    parameters = {"by": leader, "events": before[0], "logs": before[1], "now": now}
    parameters |= {"new_events": after[0], "new_logs": after[1], "complete": after[0] if logs_complete else None}
    return connection.execute(_ADVANCE_OFFSETS, parameters).rowcount == 1


# Runs in every relay turn that read entries; building the statement would cost more than running it.
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
    """Set the epoch of a new Redis data set, and reset the offsets."""
    connection.execute(
        sa.update(relay_state)
        .where(_IS_RELAY_ROW)
        .values(epoch=epoch, events_offset="0-0", logs_offset="0-0", republish_at=republish_at)
    )


def clear_republish_at(connection: sa.Connection) -> None:
    """Clear `republish_at`, at the end of the wait after a loss of data in Redis."""
    connection.execute(sa.update(relay_state).where(_IS_RELAY_ROW).values(republish_at=None))


def update_beat_tick(connection: sa.Connection, at: dt.datetime) -> None:
    """Write the time of the last tick of beat."""
    connection.execute(sa.update(relay_state).where(_IS_RELAY_ROW).values(beat_tick_at=at))


def update_problems(connection: sa.Connection, leader: str, problems: Sequence[dict[str, Any]]) -> None:
    """Replace the stored problems of the leader; do nothing if another relay leads."""
    connection.execute(
        sa.update(relay_state)
        .where(_IS_RELAY_ROW, relay_state.c.leader == leader)
        .values(problems=list(problems) or None)
    )


def get_problems(connection: sa.Connection) -> list[dict[str, str]]:
    """Return the recent problems of the leader, without unreadable ones."""
    problems = connection.scalar(sa.select(relay_state.c.problems).where(_IS_RELAY_ROW))
    return [problem for problem in problems if _is_problem(problem)] if isinstance(problems, list) else []


_is_problem = unreadable_rows.build_object_check(what=str, detail=str)
