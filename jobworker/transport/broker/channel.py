"""kombu's Redis transport, except for how messages are fetched, tracked and acknowledged.

kombu pops a message and records afterwards that it is in flight: a worker that dies between loses it. Here one script
moves messages from the queues into the worker's in-flight hash, many at once, and the report outbox acknowledges them
together with their reports. An idle worker blocks on a wake-up token, never on a message. Broken connections are
repaired here, so that Celery's consumer does not restart (it would drop its messages in flight and run them again).

Uses private names of kombu; `tests/unit/test_kombu_names.py` lists them.
"""

import contextlib
import hashlib
from collections.abc import Callable
from queue import Empty
from typing import Any

import orjson
import redis
import structlog
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps

from jobworker.clock import Clock
from jobworker.transport import keys
from jobworker.transport.broker.in_flight import FetchedMessage, InFlight
from jobworker.transport.broker.poller import CONNECTION_ERRORS, Poller
from jobworker.transport.broker.prefetch import MAX_PREFETCH, QueueWeights
from jobworker.transport.publisher import push_wake_token
from jobworker.transport.scripts.common import SEPARATOR
from jobworker.transport.scripts.messages import ADOPT, FETCH

logger = structlog.get_logger(__name__)

_FETCH_SHA = hashlib.sha1(FETCH.encode(), usedforsecurity=False).hexdigest()

#: Suffix of kombu's queue names for remote control.
_PIDBOX_SUFFIX = ".pidbox"

#: Lifetime of an unread reply to remote control (s).
_REPLY_TTL_SECONDS = 60

#: Pause before a command that Redis refused is repeated (s).
_RETRY_SECONDS = 0.5

#: Pause between fetches while the relay is behind (s).
_RELAY_BEHIND_SECONDS = 2.0


class QoS(virtual.QoS):
    """Forwards Celery's acknowledgements to the report outbox; holds no messages itself."""

    restore_at_shutdown = False

    def can_consume(self) -> bool:
        """Return whether the poller should request messages from Redis, or may read a response."""
        return bool(self.channel.can_poll() if self.channel.consumes_jobs else super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Do nothing: the message is tracked already."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge the message without a report."""
        self.channel.in_flight.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Acknowledge the message, or return it to the front of its list."""
        if requeue:
            self.channel.in_flight.requeue(delivery_tag)
        else:
            self.channel.in_flight.acknowledge(delivery_tag)


class Channel(kombu_redis.Channel):
    """A channel whose messages stay in Redis until they are acknowledged."""

    QoS = QoS

    #: Set once per worker, before it connects.
    in_flight: InFlight
    queue_weights: QueueWeights
    clock: Clock
    #: Called when Redis has no announcement of this worker (any more).
    announce_worker: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Whether this channel consumes messages that are acknowledged. Other channels (replies, remote control) behave
        #: as kombu's.
        self.consumes_jobs = False
        self._shared_client: redis.Redis | None = None
        # Messages fetched over a broken connection are in the in-flight hash, unknown to this process.
        self._must_adopt = True
        #: The next request, the pending request ("" for one by kombu itself), its number of messages, and the last tag
        #: that may start at once.
        self._next_request = "messages"
        self._pending_request = ""
        self._requested_count = self._last_startable_tag = 0
        self._paused_until = float("-inf")
        super().__init__(*args, **kwargs)

    # --- requests ---------------------------------------------------------------------------------------------

    def can_poll(self) -> bool:
        """Return whether there is a response to read, or capacity for more messages."""
        if self._in_poll:
            return True
        return self.clock.monotonic() >= self._paused_until and self.in_flight.compute_fetch_size() > 0

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Request messages, or the wake-up token if the last request returned none."""
        self._pending_request = self._next_request if self.consumes_jobs else ""
        if not self._pending_request:
            super()._brpop_start(timeout)
            return
        if self._must_adopt:
            self._adopt_in_flight()
        queues = list(self.active_queues)
        if self._pending_request == "messages":
            command = self._build_fetch_command(queues)
        else:
            seconds = self.brpop_timeout if timeout is None else timeout
            command = ["BRPOP", *(keys.READY.format(queue=queue) for queue in queues), seconds]
        self._send_command(command)

    def _send_command(self, command: list[Any]) -> None:
        connection: Any = self.client.connection
        wire = connection._sock
        self._in_poll = connection
        self._brpop_sent_at = self.clock.monotonic()
        connection.send_command(*command)
        if connection._sock is not wire:
            # redis-py found the connection dead and opened another one, which the event loop does not watch: start
            # again.
            connection.disconnect()
            raise redis.ConnectionError("the connection was replaced")

    def _build_fetch_command(self, queues: list[str]) -> list[Any]:
        in_flight = self.in_flight
        self._requested_count = in_flight.compute_fetch_size()
        starting = min(self._requested_count, max(0, in_flight.estimate_startable() - len(in_flight.prefetched)))
        names = [
            keys.FENCE.format(worker=in_flight.worker),
            keys.WORKERS,
            keys.INFLIGHT.format(worker=in_flight.worker),
            keys.EVENTS,
        ]
        first = in_flight.allocate_tags(self._requested_count)
        # Copies are dropped and leave gaps, so the startable messages are identified by their tags.
        self._last_startable_tag = first + starting - 1
        arguments = [in_flight.worker, first, self._requested_count, starting, keys.RUNNING_TTL]
        shares = [word for share in self.queue_weights.allocate(self._requested_count, queues) for word in share]
        return ["EVALSHA", _FETCH_SHA, len(names), *names, *arguments, *shares]

    def _brpop_read(self, **options: Any) -> bool:
        """Read the response. An invalid response does not end the worker; the request is repeated."""
        if not self._pending_request:
            return bool(super()._brpop_read(**options))
        try:
            answer = self.client.parse_response(self.client.connection, "EVALSHA", **options)
        except CONNECTION_ERRORS as error:
            self._disconnect_broken(error)
            raise Empty from None
        except redis.ResponseError as error:
            # A script that failed may have added messages to the hash.
            self._must_adopt, self._next_request = True, "messages"
            self._handle_refusal(error)
            raise Empty from None
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if self._pending_request == "messages":
            self._handle_fetched(answer)
        else:
            self._next_request = "messages"
        return True

    def _handle_fetched(self, answer: list[bytes]) -> None:
        status, entries = answer[0], answer[1:]
        if status == b"fenced":
            self.in_flight.outbox.end_fenced_worker()
        if status == b"unknown":
            self.pause_polling(_RETRY_SECONDS)
            self.announce_worker()
            return
        if status == b"behind":
            logger.warning("relay_is_behind", hint="nothing new is begun until a relay has read the events")
            self._next_request = "messages"
            self.pause_polling(_RELAY_BEHIND_SECONDS)
            return
        fetched = [(tag.decode(), queue.decode(), raw) for tag, queue, raw in _split_triples(entries)]
        self._next_request = "messages" if len(fetched) == self._requested_count else "token"
        self.in_flight.add_fetched(fetched, sum(int(tag) <= self._last_startable_tag for tag, _, _ in fetched))
        self.deliver_ready()

    def _adopt_in_flight(self) -> None:
        """Adopt messages that this worker has fetched without receiving the response. Raises connection errors."""
        inflight = keys.INFLIGHT.format(worker=self.in_flight.worker)
        flat: Any = self._create_client().eval(ADOPT, 1, inflight, self.in_flight.allocate_tags())
        in_flight = zip(flat[0::2], flat[1::2], strict=True)
        tags = self.in_flight.get_tags()
        unknown = sorted((int(tag), value) for tag, value in in_flight if tag.isdigit() and tag.decode() not in tags)
        adopted = [(str(tag), entry) for tag, value in unknown if (entry := _parse_in_flight_entry(value))]
        if len(adopted) < len(unknown):
            logger.error("in_flight_unreadable", key=inflight, count=len(unknown) - len(adopted))
        self.in_flight.add_adopted((tag, *entry) for tag, entry in adopted)
        self._must_adopt = False

    # --- delivery ---------------------------------------------------------------------------------------------

    def deliver_ready(self) -> None:
        """Deliver messages that can start now to Celery; return late ones to their lists."""
        if not self._active_queues:
            return
        # Limited to the present credit, with a check for late messages each time: where the event loop runs the jobs
        # itself (solo), one delivery takes as long as the job.
        for _ in range(self.get_credit()):
            self.in_flight.requeue_late()
            fetched = self.in_flight.pop_startable()
            if fetched is None:
                break
            self._deliver_message(fetched)
        self.in_flight.requeue_late()

    def get_credit(self) -> int:
        """Return how many more messages Celery accepts."""
        limit = self.qos.prefetch_count
        return max(0, limit - len(self.in_flight.delivered)) if limit else MAX_PREFETCH

    def _deliver_message(self, fetched: FetchedMessage) -> None:
        payload: Any = None
        try:
            payload = orjson.loads(fetched.message)
            payload["properties"]["delivery_tag"] = fetched.tag
            self.connection._deliver(payload, fetched.queue)
        except Exception as error:  # noqa: BLE001  content of a queue must not stop the worker
            logger.error(
                "message_unreadable", queue=fetched.queue, error=type(error).__name__, bytes=len(fetched.message)
            )
            headers = payload.get("headers") if isinstance(payload, dict) else None
            self.in_flight.reject(fetched.tag, headers, error, "the message cannot be read", fetched.queue)

    # --- connections ------------------------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from `queue`; if it holds jobs, deliver prefetched messages through this channel from now on."""
        if not no_ack:
            self.consumes_jobs = True
            self.in_flight.deliver_ready, self.in_flight.get_credit = self.deliver_ready, self.get_credit
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        answer = super()._basic_cancel(consumer_tag)
        # No reader is left for a pending response.
        if self.consumes_jobs and not self.active_queues and self._in_poll and self._pending_request == "messages":
            with contextlib.suppress(Empty):
                self._brpop_read()
        return answer

    def pause_polling(self, seconds: float) -> None:
        """Send no requests for `seconds` seconds."""
        self._paused_until = self.clock.monotonic() + seconds
        self.connection.cycle.poll_soon(seconds)

    def _receive(self) -> Any:
        """Receive remote control's messages; the poller reopens a broken connection."""
        try:
            return super()._receive()
        except CONNECTION_ERRORS as error:
            logger.warning("control_connection_broke", error=str(error))
            self._in_listen = None
            self.subclient.connection.disconnect()
            self.connection.cycle.poll_soon()
            raise Empty from None

    def _on_connection_disconnect(self, connection: Any) -> None:
        """Note that a pending response is lost when the connection is closed, here or by kombu (overdue response)."""
        if self._pending_request and self._in_poll is connection:
            self._must_adopt, self._next_request = True, "messages"
        super()._on_connection_disconnect(connection)

    def _disconnect_broken(self, error: Exception) -> None:
        logger.warning("fetch_connection_broke", error=str(error))
        self.client.connection.disconnect()

    def _handle_refusal(self, error: redis.RedisError) -> None:
        if isinstance(error, redis.exceptions.NoScriptError):
            try:
                self._create_client().script_load(FETCH)
                return
            except redis.RedisError as failure:
                error = failure
        logger.warning("redis_hands_out_no_messages", error=str(error), next_try_in=_RETRY_SECONDS)
        self.pause_polling(_RETRY_SECONDS)

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Publish a message and push a wake-up token; direct calls by jobs (Celery's `.delay()`) are published here.

        Replies to remote control get an expiry, because only a waiting program reads them; they are pushed in one
        transaction with it, so that no reply stays forever when its worker dies in between.
        """
        if queue.endswith(_PIDBOX_SUFFIX):
            with self._create_client().pipeline() as pipe:
                pipe.lpush(queue, dumps(message))
                pipe.expire(queue, _REPLY_TTL_SECONDS)
                pipe.execute()
            return
        super()._put(queue, message, **kwargs)
        with self._create_client().pipeline(transaction=False) as pipe:
            push_wake_token(pipe, queue)
            pipe.execute()

    def _create_client(self, asynchronous: bool = False) -> redis.Redis:
        # kombu creates a new redis.Redis for every command, a fifth of the cost of publishing.
        if asynchronous:
            client: redis.Redis = super()._create_client(asynchronous=True)
            return client
        if self._shared_client is None or self._shared_client.connection_pool is not self.pool:
            self._shared_client = super()._create_client()
        return self._shared_client


class Transport(kombu_redis.Transport):
    """The transport that workers select through `broker_transport`; beat, Flower and control use kombu's own."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller(self.Channel.clock)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register with Celery's event loop, with the `Poller`'s tick in place of kombu's."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        loop.on_tick.difference_update(loop.on_tick - before)
        self.cycle.attach_to_loop(loop, self.on_readable)


def _split_triples(flat: list[bytes]) -> Any:
    return zip(flat[0::3], flat[1::3], flat[2::3], strict=True)


def _parse_in_flight_entry(value: bytes) -> tuple[str, bytes] | None:
    """Return (queue, message) of an in-flight entry; None for an entry that no fetch has written."""
    size, _, remainder = value.partition(b":")
    try:
        queue = remainder[: int(size)].decode().partition(SEPARATOR)[0]
    except ValueError:
        return None
    return queue, remainder[int(size) :]
