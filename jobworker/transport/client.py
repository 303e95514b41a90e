"""Connections to Redis with timeouts; by default redis-py and kombu wait forever."""

import re

import redis
import redis.backoff
import redis.retry

from jobworker.domain.errors import ConfigurationError
from jobworker.settings import mask_password
from jobworker.transport import keys

#: Minimum version of Redis (decision 0035): Debian 12's, on which the tests run too. Every Valkey is newer.
MIN_VERSION = (7, 0)

#: Fields of INFO with the status of the last writes to the server's disk.
_WRITE_STATUS_FIELDS = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")

#: Lifetime of the key that tests whether Redis accepts writes (s).
_PROBE_TTL = 60

#: Share of maxmemory above which a burst of work may fill the rest before an operator reacts.
_MEMORY_WARNING_RATIO = 0.9

#: Idle time after which a connection is tested before use (s).
_HEALTH_CHECK_INTERVAL = 15


def connect_redis(url: str, timeout: float = 2.0, retries: int = 0) -> redis.Redis:
    r"""Return a client whose commands return or raise within about `timeout` seconds per try (str in, str out).

    A byte that is not UTF-8 is decoded as `\xff`. JobWorker's JSON and names never contain this text, so the check of
    the single item refuses it; an error would make the whole response unreadable.
    """
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="backslashreplace",
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            socket_keepalive=True,
            health_check_interval=_HEALTH_CHECK_INTERVAL,
            retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), retries),
        )
    except ValueError as error:
        raise ConfigurationError(f"JOBWORKER_REDIS_URL={mask_password(url)} is not a Redis URL: {error}") from error


def check_server(client: redis.Redis) -> None:
    """Raise `ConfigurationError` for a server that would lose data or lacks commands."""
    server = client.info("server")
    version = str(server.get("valkey_version") or server["redis_version"])
    if parse_version(version) < MIN_VERSION:
        raise ConfigurationError(
            f"Redis {version} is too old: JobWorker needs Redis {MIN_VERSION[0]}.{MIN_VERSION[1]} or newer, or Valkey; "
            "upgrade the server, or set JOBWORKER_REDIS_URL to another one"
        )
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"Redis evicts keys when it is full (maxmemory-policy {policy}), which loses queued work; "
            "set maxmemory-policy noeviction"
        )


def require_writable(client: redis.Redis) -> None:
    """Raise `ConfigurationError` for a server that accepts no writes: disk or memory full, a replica, or loading.

    The error contains the server's message. Raises `redis.RedisError` if the server does not respond.
    """
    try:
        client.set(keys.PROBE, "1", ex=_PROBE_TTL)
    except redis.exceptions.BusyLoadingError:
        raise ConfigurationError("Redis is still loading its data; try again later") from None
    except redis.ResponseError as error:
        info = client.info()
        used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
        memory = f"used_memory {used:,} of maxmemory {limit:,} bytes, " if limit else ""
        state = ", ".join(f"{name} {info[name]}" for name in ("role", *_WRITE_STATUS_FIELDS) if name in info)
        raise ConfigurationError(f"Redis does not accept writes: {error} ({memory}{state})") from None


def find_warnings(client: redis.Redis) -> list[str]:
    """Return problems with the persistence and the memory of a server that accepts writes."""
    info = client.info()
    wrong = [f"{name} is {info[name]}" for name in _WRITE_STATUS_FIELDS if info.get(name, "ok") != "ok"]
    used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    if limit and used > _MEMORY_WARNING_RATIO * limit:
        wrong.append(f"it uses {used:,} of {limit:,} bytes of memory (maxmemory)")
    return wrong


def parse_version(text: str) -> tuple[int, ...]:
    """Return `(7, 0, 15)` for `"7.0.15"`, up to the first part that is not a number: `(8, 0)` for `"8.0-rc1"`."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()
