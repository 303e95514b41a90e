"""Capacity left under each limit during one dispatch round."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog

from jobworker.domain.executions import blockers
from jobworker.domain.executions.blockers import Blocker
from jobworker.domain.jobs import limits, policies
from jobworker.domain.jobs.limits import ConcurrencyPolicy, RateLimitPolicy
from jobworker.store import jobs
from jobworker.store.executions import limit_usage

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Capacity:
    """Slots in use and rate tokens left, by limit key; `acquire` updates both.

    `is_limited` states whether a limit blocked an execution, `next_permit_at` when a rate limit admits the next one.
    """

    now: dt.datetime
    in_use: dict[str, int] = field(default_factory=dict)
    in_use_by_job: dict[str, int] = field(default_factory=dict)
    published_ahead: dict[str, int] = field(default_factory=dict)
    full_at: dict[str, dt.datetime] = field(default_factory=dict)
    updated_buckets: dict[str, dt.datetime] = field(default_factory=dict)
    next_permit_at: dt.datetime | None = None
    is_limited: bool = False
    _concurrency: dict[str, ConcurrencyPolicy | None] = field(default_factory=dict)
    _rates: dict[str, RateLimitPolicy | None] = field(default_factory=dict)

    @classmethod
    def load(cls, connection: sa.Connection, now: dt.datetime) -> "Capacity":
        """Return the capacity as recorded in SQL."""
        held = limit_usage.count_held_slots(connection)
        capacity = cls(now, held)
        for key, count in held.items():
            job = limits.get_job_name(key)
            capacity.in_use_by_job[job] = capacity.in_use_by_job.get(job, 0) + count
        return capacity

    def load_limits(self, connection: sa.Connection, limit_keys: Iterable[str]) -> None:
        """Load the policies and rate buckets of these limit keys."""
        keys = [limits.split_limit_key(limit_key) for limit_key in limit_keys]
        unknown = {limits.get_job_name(key) for pair in keys for key in pair if key} - self._concurrency.keys()
        for name, definition in jobs.get_definitions(connection, sorted(unknown)).items():
            self._parse_policies(name, definition)
        rates = {rate for _, rate in keys if rate} - self.published_ahead.keys()
        if rates:
            published = limit_usage.count_published(connection, rates)
            self.published_ahead.update({key: published.get(key, 0) for key in rates})
            self.full_at.update(limit_usage.get_rate_buckets(connection, rates))

    def find_blocker(self, limit_key: str) -> Blocker | None:
        """Return the blocker of the next execution with this limit key; None if it may be dispatched now."""
        key, rate_key = limits.split_limit_key(limit_key)
        reason = (
            (key and self._find_concurrency_blocker(key)) or (rate_key and self._find_rate_blocker(rate_key)) or None
        )
        self.is_limited = self.is_limited or reason is not None
        return reason

    def count_in_use(self, limit_key: str) -> int:
        """Return how many slots the limit key holds; the fair queue prefers the key with the fewest."""
        key, _ = limits.split_limit_key(limit_key)
        return self.in_use.get(key, 0) if key else 0

    def acquire(self, limit_key: str) -> None:
        """Take a slot and a rate token for one more execution with this limit key."""
        key, rate_key = limits.split_limit_key(limit_key)
        if key:
            job = limits.get_job_name(key)
            self.in_use[key] = self.in_use.get(key, 0) + 1
            self.in_use_by_job[job] = self.in_use_by_job.get(job, 0) + 1
        policy = self._rates.get(limits.get_job_name(rate_key)) if rate_key else None
        if rate_key and policy:
            full_at = policy.compute_full_at(self.full_at.get(rate_key), self.now, 1)
            self.published_ahead[rate_key] = self.published_ahead.get(rate_key, 0) + 1
            self.full_at[rate_key] = self.updated_buckets[rate_key] = full_at

    def _find_concurrency_blocker(self, key: str) -> Blocker | None:
        job = limits.get_job_name(key)
        policy = self._concurrency.get(job)
        if policy is None:
            return None
        return blockers.detect_concurrency_limit(
            policy, key, self.in_use.get(key, 0)
        ) or blockers.detect_total_concurrency_limit(policy, job, self.in_use_by_job.get(job, 0))

    def _find_rate_blocker(self, rate_key: str) -> Blocker | None:
        policy = self._rates.get(limits.get_job_name(rate_key))
        if policy is None:
            return None
        reason = blockers.detect_rate_limit(
            policy, rate_key, self.full_at.get(rate_key), self.published_ahead.get(rate_key, 0), self.now
        )
        until = reason.details.get("until") if reason else None
        if until and (self.next_permit_at is None or until < self.next_permit_at):
            self.next_permit_at = until
        return reason

    def _parse_policies(self, job: str, definition: Mapping[str, Any]) -> None:
        """Parse the limits of a job. An invalid policy is ignored, so that one job does not block the others."""
        normalized, problems = policies.normalize(
            {name: definition.get(name) for name in ("concurrency", "rate_limit")}
        )
        for problem in problems:
            logger.error("limit_left_out", job=job, why=f"{problem.pointer}: {problem.message}")
        concurrency, rate = normalized["concurrency"], normalized["rate_limit"]
        self._concurrency[job] = limits.parse_concurrency(concurrency) if concurrency else None
        self._rates[job] = limits.parse_rate_limit(rate) if rate else None
