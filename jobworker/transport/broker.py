"""kombu's Redis transport, as far as workers need it otherwise.

The database is the queue of record and a claim makes every attempt start once, so the broker need not
remember what it handed out: no un-acked bookkeeping (more than half of a worker's CPU), nothing put
back when a connection drops (which ran jobs twice, and ended workers when Redis restarted). What a
worker had fetched and not started when it died is published again by the relay. What it holds when it
stops in good order goes back at once.
"""

from typing import Any

import redis
from celery.worker import state
from kombu.transport import redis as kombu_redis


class Channel(kombu_redis.Channel):
    """A channel that keeps one client and hands messages back only when the worker stops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._shared_client: redis.Redis | None = None
        super().__init__(*args, **kwargs)

    @property
    def do_restore(self) -> bool:
        """Whether unfinished messages go back to their queue when this channel closes."""
        return state.should_stop is not None or state.should_terminate is not None

    def _create_client(self, asynchronous: bool = False) -> redis.Redis:
        # kombu makes a new redis.Redis for every command, a fifth of the cost of publishing.
        if asynchronous:
            client: redis.Redis = super()._create_client(asynchronous=True)
            return client
        if self._shared_client is None or self._shared_client.connection_pool is not self.pool:
            self._shared_client = super()._create_client()
        return self._shared_client


class Transport(kombu_redis.Transport):
    """Selected by workers through `broker_transport`; beat, Flower and control keep the stock one."""

    Channel = Channel
