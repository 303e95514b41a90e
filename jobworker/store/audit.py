"""Audit log of all changes except those of executions. Append-only: triggers refuse anything but INSERT."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.store.tables import core


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Entry of the audit log: the actor, action and subject of a change, with the subject before and after."""

    at: dt.datetime
    actor: str
    action: str
    subject: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def record(connection: sa.Connection, entry: AuditEntry) -> None:
    """Append an entry."""
    connection.execute(
        core.audit.insert().values(
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            before=entry.before,
            after=entry.after,
        )
    )


def list_by_subject(connection: sa.Connection, subject: str) -> list[AuditEntry]:
    """Return the audit entries of `subject`, oldest first."""
    table = core.audit
    query = sa.select(table).where(table.c.subject == subject).order_by(table.c.id)
    return [
        AuditEntry(row.at, row.actor, row.action, row.subject, row.before, row.after)
        for row in connection.execute(query)
    ]
