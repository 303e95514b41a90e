"""Example jobs for entities: delete inactive ones, count them."""

import json
import logging
import sqlite3
from typing import Any

import redis

from jobworker import Context, job
from jobworker.settings import Settings
from tasks import database

_log = logging.getLogger(__name__)

STATISTICS_KEY = "example:entity-statistics"

#: Maximum age of cached statistics (s).
STATISTICS_TTL = 60

_INACTIVE = "status <> 'active' AND last_active_at < strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?)"


@job(queue="background", autoretry_for=(sqlite3.OperationalError,), max_retries=3, retry_backoff=5, time_limit=3600)
def cleanup_inactive_entities(
    context: Context, inactive_days: int = 90, batch_size: int = 100, dry_run: bool = False
) -> dict[str, Any]:
    """Delete entities that are not active and were not seen for a number of days.

    Each batch is a transaction of its own, so that other writers get their turn in between. An interrupted run is
    simply repeated.
    """
    if inactive_days < 0:
        raise ValueError("inactive_days must not be negative")
    if batch_size < 1:
        raise ValueError("batch_size must be at least 1")
    oldest = f"-{inactive_days} days"
    with database.opened() as connection:
        found: int = connection.execute(f"SELECT count(*) FROM domain_entities WHERE {_INACTIVE}", [oldest]).fetchone()[
            0
        ]
        context.log.info("%d entities were inactive for %d days", found, inactive_days)
        context.progress(0, found)
        deleted = 0 if dry_run else _delete_in_batches(context, connection, oldest, batch_size, found)
        remaining = database.count(connection)
    return {"found": found, "deleted": deleted, "remaining": remaining, "dry_run": dry_run}


def _delete_in_batches(
    context: Context, connection: sqlite3.Connection, oldest: str, batch_size: int, total: int
) -> int:
    batch = f"SELECT id FROM domain_entities WHERE {_INACTIVE} ORDER BY id LIMIT ?"
    deleted = 0
    while True:
        with database.transaction(connection):
            gone = connection.execute(
                f"DELETE FROM domain_entities WHERE id IN ({batch})", [oldest, batch_size]
            ).rowcount
        deleted += gone
        context.progress(deleted, max(total, deleted), f"{deleted} deleted")
        if gone < batch_size:
            return deleted


@job(autoretry_for=(sqlite3.OperationalError,), max_retries=3, retry_backoff=5)
def generate_entity_statistics() -> dict[str, Any]:
    """Count entities by kind and status. Counts of the last minute are returned from Redis."""
    cache = redis_client()
    known = _remembered(cache)
    if known is not None:
        return {**known, "cached": True}
    statistics = _count()
    try:
        cache.set(STATISTICS_KEY, json.dumps(statistics), ex=STATISTICS_TTL)
    except redis.RedisError as error:
        _log.warning("the statistics were not cached: %s", error)
    return {**statistics, "cached": False}


def redis_client() -> redis.Redis:
    """Return the client of the Redis in which the examples cache."""
    url = Settings.from_environment().redis_url
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=2, socket_connect_timeout=2)


def _remembered(cache: redis.Redis) -> dict[str, Any] | None:
    try:
        known = cache.get(STATISTICS_KEY)
    except redis.RedisError as error:
        _log.warning("the cache cannot be read: %s", error)
        return None
    return dict(json.loads(str(known))) if known else None


def _count() -> dict[str, Any]:
    with database.opened() as connection:
        rows = connection.execute("SELECT kind, status, count(*) FROM domain_entities GROUP BY kind, status").fetchall()
        counted_at = connection.execute("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', 'now')").fetchone()[0]
    by_kind: dict[str, int] = {}
    by_status: dict[str, int] = {}
    for kind, status, number in rows:
        by_kind[kind] = by_kind.get(kind, 0) + number
        by_status[status] = by_status.get(status, 0) + number
    return {"total": sum(by_kind.values()), "by_kind": by_kind, "by_status": by_status, "counted_at": counted_at}
