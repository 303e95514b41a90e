"""Stop requests to workers for attempts that they run.

The relay repeats a stop request for as long as SQL shows the attempt as running, so losing one costs seconds.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import redis

from jobworker.transport import keys


class StopRequest(NamedTuple):
    """A request to stop an attempt, made by `requested_by`."""

    execution: str
    attempt: int
    requested_by: str


class StopRequests:
    """The stop requests to workers, on one client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def publish(self, worker: str, requests: Iterable[StopRequest]) -> None:
        """Write stop requests for a worker to Redis. Raises `redis.RedisError`."""
        name = keys.ORDERS.format(worker=worker)
        fields = {request.execution: json.dumps([request.attempt, request.requested_by]) for request in requests}
        try:
            self._write(name, fields)
        except redis.ResponseError:  # The key holds another type.
            self._client.delete(name)
            self._write(name, fields)

    def _write(self, name: str, fields: dict[Any, Any]) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(name, mapping=fields)
            pipe.expire(name, keys.ORDERS_TTL)
            pipe.execute()

    def list_for_worker(self, worker: str) -> list[StopRequest]:
        """Return the stop requests to a worker; a key of another type is deleted. Raises `redis.RedisError`."""
        name = keys.ORDERS.format(worker=worker)
        try:
            texts: Any = self._client.hgetall(name)
        except redis.ResponseError:
            self._client.delete(name)
            return []
        return [_parse_request(execution, text) for execution, text in texts.items()]

    def delete(self, worker: str, requests: Iterable[StopRequest]) -> None:
        """Delete stop requests for attempts that the worker does not run. Raises `redis.RedisError`."""
        self._client.hdel(keys.ORDERS.format(worker=worker), *(request.execution for request in requests))


def _parse_request(execution: str, text: str) -> StopRequest:
    try:
        attempt, by = json.loads(text)
        return StopRequest(execution, int(attempt), str(by))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return StopRequest(execution, 0, "")  # No worker runs such an attempt, so the request is deleted.
