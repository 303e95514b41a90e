"""Construction of the messages of executions."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
import structlog
from cachetools import LRUCache

from jobworker.domain.executions import worker_loss
from jobworker.domain.executions.execution import count_used_retries
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.store import jobs
from jobworker.store.executions.dispatch import ReadyExecution
from jobworker.telemetry.log_once import ProblemDeduplicator
from jobworker.transport.publisher import Message

logger = structlog.get_logger(__name__)

#: Maximum number of cached revisions. Each can be read again.
_CACHE_SIZE = 10_000


class MessageBuilder:
    """Builds messages from executions and their job definitions, which are cached by revision."""

    def __init__(self) -> None:
        self._definitions: LRUCache[tuple[str, int], JobDefinition | None] = LRUCache(_CACHE_SIZE)
        self._policies_json: LRUCache[tuple[str, int], str] = LRUCache(_CACHE_SIZE)
        self._warnings = ProblemDeduplicator()

    def build(self, connection: sa.Connection, row: ReadyExecution, urgency: int) -> Message:
        """Return the message of the next attempt. Raises an error of `READ_ERRORS` for an unreadable definition."""
        definition = self._get_definition(connection, row)
        free = {*(row.lost_attempts or ()), *(row.interrupted_attempts or ()), *(row.snoozed_attempts or ())}
        return Message(
            execution=row.id,
            attempt=row.attempt + 1,
            job=row.job,
            revision=row.job_revision,
            task=row.task,
            queue=row.queue,
            priority=urgency,
            parameters=row.parameters,
            retries=count_used_retries(row.attempt + 1, len(free)),
            max_attempts=row.max_attempts,
            time_limit=_get_effective_value("time_limit", row, definition.time_limit if definition else None),
            soft_time_limit=_get_effective_value(
                "soft_time_limit", row, definition.soft_time_limit if definition else None
            ),
            policies=self._get_policies_json(row, definition),
            correlation_id=row.correlation_id,
            scheduled_for=row.scheduled_for,
            expires_at=row.expires_at if row.attempt == 0 else None,
            metadata=row.metadata,
            apart=worker_loss.is_own_process_required(row.lost_attempts),
            announce=definition is not None
            and worker_loss.is_announcement_required(definition.on_worker_lost, row.lost_attempts),
            call=row.call,
        )

    def _get_policies_json(self, row: ReadyExecution, definition: JobDefinition | None) -> str:
        if row.overrides is not None:
            return self._serialize_policies(row, {**(definition.policies if definition else {}), **row.overrides})
        key = (row.job, row.job_revision)
        if key not in self._policies_json:
            self._policies_json[key] = self._serialize_policies(row, definition.policies if definition else {})
        return self._policies_json[key]

    def _serialize_policies(self, row: ReadyExecution, raw_policies: Mapping[str, Any]) -> str:
        """Return the worker's policies as JSON. Invalid policies are ignored, so that one job does not block others."""
        normalized, problems = policies.normalize({name: raw_policies.get(name) for name in policies.WORKER_POLICIES})
        if problems and self._warnings.add(f"policies {row.job} {row.job_revision}"):
            reasons = "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems)
            logger.error("policies_left_out", job=row.job, revision=row.job_revision, why=reasons)
        return json.dumps(policies.select_for_worker(normalized), separators=(",", ":"), sort_keys=True)

    def _get_definition(self, connection: sa.Connection, row: ReadyExecution) -> JobDefinition | None:
        # A revision is immutable, so its definition can be cached.
        key = (row.job, row.job_revision)
        if key not in self._definitions:
            self._definitions[key] = jobs.get_definition(connection, *key)
        return self._definitions[key]


def _get_effective_value(name: str, row: ReadyExecution, default: Any) -> Any:
    """Return the value of the submission's overrides, or the definition's value."""
    return (row.overrides or {}).get(name, default)
