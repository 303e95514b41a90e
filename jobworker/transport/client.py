"""Connections to Redis, with time-outs everywhere: redis-py and kombu wait for ever by default."""

import re

import redis
import redis.backoff
import redis.retry

from jobworker.domain.errors import Misconfigured
from jobworker.settings import without_password

#: The oldest Redis that is supported (decision 0035): Debian 12's, on which the tests run too. Every Valkey is newer.
OLDEST = (7, 0)

#: A connection that was idle this long (s) is tested before it is used.
_HEALTH_CHECK_INTERVAL = 15


def connect(url: str, timeout: float = 2.0, retries: int = 0) -> redis.Redis:
    """A client that answers or raises within about `timeout` seconds per try (str in, str out)."""
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            socket_keepalive=True,
            health_check_interval=_HEALTH_CHECK_INTERVAL,
            retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), retries),
        )
    except ValueError as error:
        raise Misconfigured(f"JOBWORKER_REDIS_URL={without_password(url)} is no URL of a Redis: {error}") from error


def check(client: redis.Redis) -> None:
    """Refuse a server that would lose our data or lacks commands; raises `Misconfigured`."""
    server = client.info("server")
    version = str(server.get("valkey_version") or server["redis_version"])
    if to_version(version) < OLDEST:
        raise Misconfigured(
            f"Redis {version} is too old: JobWorker needs Redis {OLDEST[0]}.{OLDEST[1]} or newer, or Valkey; "
            "upgrade the server, or set JOBWORKER_REDIS_URL to another one"
        )
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise Misconfigured(
            f"Redis evicts keys when it is full (maxmemory-policy {policy}), which loses queued work; "
            "set maxmemory-policy noeviction"
        )


def to_version(text: str) -> tuple[int, ...]:
    """`"7.0.15"` → `(7, 0, 15)`; what is no number ends it, so `"8.0-rc1"` → `(8, 0)`."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
