"""Connections to Redis, with time-outs everywhere: redis-py and kombu wait for ever by default."""

import re

import redis
import redis.backoff
import redis.retry

from jobworker.domain.errors import ConfigurationError
from jobworker.settings import mask_password
from jobworker.transport import keys

#: The oldest Redis that is supported (decision 0035): Debian 12's, on which the tests run too. Every Valkey is newer.
MIN_VERSION = (7, 0)

#: Fields of INFO that say whether the last writes to the server's disk went well.
_WRITE_STATUS_FIELDS = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")

#: A key that only shows that Redis takes writes is gone after so long (s).
_PROBE_TTL = 60

#: Above this share of maxmemory a burst of work may fill the rest before an operator reacts.
_MEMORY_WARNING_RATIO = 0.9

#: A connection that was idle this long (s) is tested before it is used.
_HEALTH_CHECK_INTERVAL = 15


def connect_redis(url: str, timeout: float = 2.0, retries: int = 0) -> redis.Redis:
    r"""A client that answers or raises within about `timeout` seconds per try (str in, str out).

    A byte that is no UTF-8 is read as `\xff`: no JSON and no name of JobWorker's has that, so that the one item is
    refused by whatever checks it, while an error would make the whole answer unreadable.
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
        raise ConfigurationError(f"JOBWORKER_REDIS_URL={mask_password(url)} is no URL of a Redis: {error}") from error


def check_server(client: redis.Redis) -> None:
    """Refuse a server that would lose our data or lacks commands; raises `Misconfigured`."""
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
    """Refuse a server that answers and takes no writes: its disk or memory is full, it is a replica, or it loads.

    Raises `Misconfigured` with what the server says; `redis.RedisError` if it does not answer.
    """
    try:
        client.set(keys.PROBE, "1", ex=_PROBE_TTL)
    except redis.exceptions.BusyLoadingError:
        raise ConfigurationError("Redis is loading its data and answers when that is done") from None
    except redis.ResponseError as error:
        found = client.info()
        used, limit = found.get("used_memory", 0), found.get("maxmemory", 0)
        memory = f"used_memory {used:,} of maxmemory {limit:,} bytes, " if limit else ""
        state = ", ".join(f"{name} {found[name]}" for name in ("role", *_WRITE_STATUS_FIELDS) if name in found)
        raise ConfigurationError(f"Redis takes no writes: {error} ({memory}{state})") from None


def find_warnings(client: redis.Redis) -> list[str]:
    """What a server that takes writes says of how it keeps its data and of its memory, if that is not well."""
    found = client.info()
    wrong = [f"{name} is {found[name]}" for name in _WRITE_STATUS_FIELDS if found.get(name, "ok") != "ok"]
    used, limit = found.get("used_memory", 0), found.get("maxmemory", 0)
    if limit and used > _MEMORY_WARNING_RATIO * limit:
        wrong.append(f"it uses {used:,} of {limit:,} bytes of memory (maxmemory)")
    return wrong


def parse_version(text: str) -> tuple[int, ...]:
    """`"7.0.15"` → `(7, 0, 15)`; what is no number ends it, so `"8.0-rc1"` → `(8, 0)`."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
