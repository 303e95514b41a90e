"""Keys of JobWorker's that hold another type: another program wrote them, and every command on them fails."""

from typing import Any

import redis

from jobworker.transport import keys

#: The keys that have no part of their own for each worker or execution, and of which type they are.
_TYPES = {
    keys.EPOCH: "string",
    keys.EVENTS: "stream",
    keys.LOGS: "stream",
    keys.WAKE: "stream",
    keys.WORKERS: "zset",
    keys.POISON: "list",
    keys.WATCH: "hash",
}


def set_aside(client: redis.Redis) -> list[tuple[str, str, str]]:
    """Rename keys that hold something of another type; return (key, the type found, the new name) of each.

    What was set aside before under the same name is replaced. Raises `redis.RedisError`.
    """
    with client.pipeline(transaction=False) as pipe:
        for key in _TYPES:
            pipe.type(key)
        found: list[Any] = pipe.execute()
    moved = []
    for (key, wanted), kind in zip(_TYPES.items(), found, strict=True):
        if kind not in (wanted, "none"):
            name = keys.ASIDE.format(key=key)
            client.rename(key, name)
            moved.append((key, kind, name))
    return moved
