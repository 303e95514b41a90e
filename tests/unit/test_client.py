"""Checks of the Redis server at connection. The servers are fakes because such old versions cannot be installed."""

from typing import Any, cast

import pytest
import redis

from jobworker.domain.errors import ConfigurationError
from jobworker.transport import client


class FakeServerInfo:
    """A server that only has INFO."""

    def __init__(self, policy: str = "noeviction", **fields: Any) -> None:
        self._fields = {"maxmemory_policy": policy, **fields}

    def info(self, section: str = "default") -> dict[str, Any]:
        """Return the fields of all sections."""
        return self._fields


def _check_server(server: FakeServerInfo) -> None:
    client.check_server(cast(redis.Redis, server))


@pytest.mark.parametrize("version", ["2.8.24", "5.0.14", "6.0.16", "6.2.14", "6"])
def test_old_redis_rejected_with_its_version(version: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Redis {version} is too old: JobWorker needs Redis 7\.0 or newer"):
        _check_server(FakeServerInfo(redis_version=version))


@pytest.mark.parametrize("version", ["7.0.0", "7.0.15", "8.0.1", "8.0-rc1", "10.0.0", "255.255.255"])
def test_supported_redis_version_accepted(version: str) -> None:
    _check_server(FakeServerInfo(redis_version=version))


def test_valkey_accepted_by_its_redis_version() -> None:
    _check_server(FakeServerInfo(redis_version="7.2.4", valkey_version="9.1.2"))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_evicting_redis_rejected_with_setting_to_change(policy: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"maxmemory-policy {policy}.*set maxmemory-policy noeviction"):
        _check_server(FakeServerInfo(policy, redis_version="7.0.15"))


_HEALTHY_INFO = {"aof_last_write_status": "ok", "rdb_last_bgsave_status": "ok", "used_memory": 950, "maxmemory": 0}


@pytest.mark.parametrize(
    ("says", "warnings"),
    [
        ({}, []),
        ({"maxmemory": 2000}, []),
        ({"maxmemory": 1000}, ["it uses 950 of 1,000 bytes of memory (maxmemory)"]),
        ({"rdb_last_bgsave_status": "err"}, ["rdb_last_bgsave_status is err"]),
        ({"aof_last_bgrewrite_status": "err"}, ["aof_last_bgrewrite_status is err"]),
    ],
)
def test_unhealthy_redis_reported_in_warnings(says: dict[str, Any], warnings: list[str]) -> None:
    assert client.find_warnings(cast(redis.Redis, FakeServerInfo(**{**_HEALTHY_INFO, **says}))) == warnings
