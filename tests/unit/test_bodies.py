"""Request bodies: limits of size, memory, number and time, and eviction of the slowest body."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from werkzeug.exceptions import RequestEntityTooLarge

from jobworker.api import json_body
from jobworker.api.problems import BodyTooSlow, MalformedBody
from jobworker.api.server import BodyLimits, BodyReceiver
from jobworker.domain.errors import ServiceBusy


async def _make_chunks(*chunks: bytes, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if then is not None:
        await then.wait()


def _receive_all(bodies: BodyReceiver, length: str | None, *chunks: bytes) -> tuple[bytes, Exception | None]:
    return asyncio.run(bodies.receive(length, _make_chunks(*chunks)))


def test_body_chunks_joined() -> None:
    bodies = BodyReceiver(BodyLimits(max_body_bytes=10))
    assert _receive_all(bodies, None, b"ab", b"cd") == (b"abcd", None)
    assert _receive_all(bodies, "4", b"ab", b"cd") == (b"abcd", None)


def test_too_large_and_incomplete_bodies_rejected() -> None:
    bodies = BodyReceiver(BodyLimits(max_body_bytes=3))
    assert isinstance(_receive_all(bodies, "4")[1], RequestEntityTooLarge)
    assert isinstance(_receive_all(bodies, None, b"ab", b"cd")[1], RequestEntityTooLarge)
    assert isinstance(_receive_all(bodies, "3", b"ab")[1], MalformedBody)


def test_truncated_chunked_body_rejected() -> None:
    bodies = BodyReceiver(BodyLimits(max_body_bytes=10))
    assert _receive_all(bodies, None, b"ab", b"") == (b"ab", None), "as granian ends each body"
    for chunks in ((b"ab", b"", b""), (b"", b"")):
        assert isinstance(_receive_all(bodies, None, *chunks)[1], MalformedBody)


def test_evicted_body_ignores_later_chunks() -> None:
    async def run() -> list[tuple[bytes, Exception | None]]:
        bodies, old, new = (
            BodyReceiver(BodyLimits(max_body_bytes=10, max_bodies=1)),
            asyncio.Queue[bytes](),
            asyncio.Queue[bytes](),
        )
        tasks = [asyncio.create_task(bodies.receive(None, _queue_chunks(queue))) for queue in (old, new)]
        await asyncio.sleep(0.01)
        new.put_nowait(b"ab")  # Both arrive in one turn of the event loop.
        old.put_nowait(b"cd")
        await asyncio.sleep(0.01)
        new.put_nowait(b"")
        return list(await asyncio.gather(*tasks))

    evicted, served = asyncio.run(run())
    assert isinstance(evicted[1], ServiceBusy)
    assert served == (b"ab", None)


async def _queue_chunks(chunks: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while chunk := await chunks.get():
        yield chunk


def test_slow_body_rejected_at_deadline() -> None:
    async def run() -> tuple[bytes, Exception | None]:
        return await BodyReceiver(BodyLimits(max_body_bytes=10, timeout_seconds=0.01)).receive(
            "5", _make_chunks(b"a", then=asyncio.Event())
        )

    assert isinstance(asyncio.run(run())[1], BodyTooSlow)


@pytest.mark.parametrize(
    "limits", [BodyLimits(max_body_bytes=10, max_bodies=2), BodyLimits(max_body_bytes=10, max_total_bytes=5)]
)
def test_oldest_incomplete_body_evicted(limits: BodyLimits) -> None:
    async def run() -> list[tuple[bytes, Exception | None]]:
        bodies, never = BodyReceiver(limits), asyncio.Event()
        slow = [asyncio.create_task(bodies.receive("9", _make_chunks(b"ab", then=never))) for _ in range(2)]
        await asyncio.sleep(0)
        prompt = await bodies.receive("2", _make_chunks(b"ab"))
        evicted = await slow[0]
        slow[1].cancel()
        return [prompt, evicted]

    prompt, evicted = asyncio.run(run())
    assert prompt == (b"ab", None)
    assert isinstance(evicted[1], ServiceBusy)


@pytest.mark.parametrize("raw", [b"[" + b"[]," * 5_000_000 + b"[]]", b'{"a":' + b"[1," * 600_000])
def test_body_with_too_many_values_rejected_before_parsing(raw: bytes) -> None:
    with pytest.raises(MalformedBody, match="500,000"):
        json_body.parse(raw)
