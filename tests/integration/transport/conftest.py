"""Transport driver with its own Redis, and a proxy whose connections can be cut."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.integration.transport.proxy import RedisProxy
from tests.integration.transport.transport_driver import TransportDriver
from tests.servers import RedisServer
from tests.system_driver import SystemDriver


@pytest.fixture
def driver(engine: SystemDriver, own_server: RedisServer) -> Iterator[TransportDriver]:
    """Driver with a Redis and without workers."""
    with contextlib.closing(TransportDriver(engine, own_server)) as driver:
        yield driver


@pytest.fixture
def proxy(own_server: RedisServer) -> Iterator[RedisProxy]:
    """Proxy to the Redis whose connections can be cut."""
    with contextlib.closing(RedisProxy(own_server.url)) as proxy:
        yield proxy
