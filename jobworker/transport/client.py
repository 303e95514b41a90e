"""Connections to Redis, with time-outs everywhere: redis-py and kombu wait for ever by default."""

import redis
import redis.backoff
import redis.retry

from jobworker.domain.errors import Misconfigured
from jobworker.settings import without_password

_OLDEST = (6, 2)

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
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise Misconfigured(f"Redis {version} is too old; JobWorker needs Redis 6.2 or newer, or Valkey")
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise Misconfigured(
            f"Redis evicts keys when it is full (maxmemory-policy {policy}), which loses queued work; "
            "set maxmemory-policy noeviction"
        )
