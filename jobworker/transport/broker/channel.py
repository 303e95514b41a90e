"""kombu's Redis transport, except for how messages are fetched, remembered and acknowledged.

kombu pops a message and writes down afterwards that it is being worked on: a worker that dies between loses it. Here
one script moves messages from the queues into the worker's in-flight hash, many at once, and the `Mailbox`
acknowledges them together with what is reported about them. A worker that waits blocks on a wake-up token, never on
a message. Broken connections are mended in here, so that Celery's consumer does not start over (it would drop and run
again what it had in hand).

Uses names that kombu keeps to itself; `tests/unit/test_kombu_names.py` says which.
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

from jobworker.clock import Clock
from jobworker.transport import keys
from jobworker.transport.broker.mailbox import Mailbox
from jobworker.transport.broker.messages import FetchedMessage
from jobworker.transport.broker.poller import CONNECTION_ERRORS, Poller
from jobworker.transport.broker.prefetch import MAX_PREFETCH, QueueWeights
from jobworker.transport.publisher import notify_workers
from jobworker.transport.scripts.common import SEPARATOR
from jobworker.transport.scripts.messages import ADOPT, FETCH

logger = structlog.get_logger(__name__)

_FETCH_SHA = hashlib.sha1(FETCH.encode(), usedforsecurity=False).hexdigest()

#: How kombu ends the names of the queues of remote control.
_PIDBOX_SUFFIX = ".pidbox"

#: An answer that was not read for so long (s) is not waited for any more.
_REPLY_TTL_SECONDS = 60

#: Pause before a Redis that refused is asked again (s).
_RETRY_SECONDS = 0.5

#: Pause before asking again while the relay is behind (s).
_RELAY_BEHIND_SECONDS = 2.0


class QoS(virtual.QoS):
    """What Celery acknowledges goes to the mailbox; nothing is kept here."""

    restore_at_shutdown = False

    def can_consume(self) -> bool:
        """Whether the poller should ask Redis for messages, or may read an answer."""
        return bool(self.channel.can_poll() if self.channel.consumes_jobs else super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """The mailbox knows already."""

    def ack(self, delivery_tag: str) -> None:
        """Done, without anything to report."""
        self.channel.mailbox.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Done, or back to the front of its list."""
        if requeue:
            self.channel.mailbox.requeue(delivery_tag)
        else:
            self.channel.mailbox.acknowledge(delivery_tag)


class Channel(kombu_redis.Channel):
    """A channel whose messages stay in Redis until they are done."""

    QoS = QoS

    #: Set once per worker, before it connects.
    mailbox: Mailbox
    queue_weights: QueueWeights
    clock: Clock
    #: Called when Redis does not know this worker (any more).
    announce_worker: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Whether this channel consumes messages that are acknowledged. Others (replies, remote control) are kombu's.
        self.consumes_jobs = False
        self._shared_client: redis.Redis | None = None
        # What was fetched over a connection that broke is in the in-flight hash, and nobody here knows of it.
        self._must_adopt = True
        #: What to ask for next, what was asked for last ("" by kombu itself), how many messages, and the last tag
        #: that may start at once.
        self._next_request = "messages"
        self._pending_request = ""
        self._requested_count = self._last_startable_tag = 0
        self._paused_until = float("-inf")
        super().__init__(*args, **kwargs)

    # --- asking -----------------------------------------------------------------------------------------------

    def can_poll(self) -> bool:
        """Whether there is an answer to read, or room for more messages."""
        if self._in_poll:
            return True
        return self.clock.monotonic() >= self._paused_until and self.mailbox.compute_fetch_size() > 0

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for messages; or, if there were none, for the token that says that there are some again."""
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
            # redis-py found it dead and opened another, on which the event loop does not listen: start again.
            connection.disconnect()
            raise redis.ConnectionError("the connection was replaced")

    def _build_fetch_command(self, queues: list[str]) -> list[Any]:
        mailbox = self.mailbox
        self._requested_count = mailbox.compute_fetch_size()
        starting = min(self._requested_count, max(0, mailbox.estimate_startable() - len(mailbox.prefetched)))
        names = [
            keys.FENCE.format(worker=mailbox.worker),
            keys.WORKERS,
            keys.INFLIGHT.format(worker=mailbox.worker),
            keys.EVENTS,
        ]
        first = mailbox.allocate_tags(self._requested_count)
        # Copies are dropped, and leave gaps: what may start is told by its tag.
        self._last_startable_tag = first + starting - 1
        asked = [mailbox.worker, first, self._requested_count, starting, keys.RUNNING_TTL]
        shares = [word for share in self.queue_weights.allocate(self._requested_count, queues) for word in share]
        return ["EVALSHA", _FETCH_SHA, len(names), *names, *asked, *shares]

    def _brpop_read(self, **options: Any) -> bool:
        """Take the answer. Whatever is wrong with it, the worker lives and asks again."""
        if not self._pending_request:
            return bool(super()._brpop_read(**options))
        try:
            answer = self.client.parse_response(self.client.connection, "EVALSHA", **options)
        except CONNECTION_ERRORS as error:
            self._disconnect_broken(error)
            raise Empty from None
        except redis.ResponseError as error:
            # A script that was stopped may have put something into the hash.
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
        said, entries = answer[0], answer[1:]
        if said == b"fenced":
            self.mailbox.end_fenced_worker()
        if said == b"unknown":
            self.pause_polling(_RETRY_SECONDS)
            self.announce_worker()
            return
        if said == b"behind":
            logger.warning("relay_is_behind", hint="nothing new is begun until a relay has read the events")
            self._next_request = "messages"
            self.pause_polling(_RELAY_BEHIND_SECONDS)
            return
        taken = [(tag.decode(), queue.decode(), raw) for tag, queue, raw in _split_triples(entries)]
        self._next_request = "messages" if len(taken) == self._requested_count else "token"
        self.mailbox.add_fetched(taken, sum(int(tag) <= self._last_startable_tag for tag, _, _ in taken))
        self.deliver_ready()

    def _adopt_in_flight(self) -> None:
        """Take over what this worker has fetched without hearing of it. Raises what a broken connection raises."""
        inflight = keys.INFLIGHT.format(worker=self.mailbox.worker)
        flat: Any = self._create_client().eval(ADOPT, 1, inflight, self.mailbox.allocate_tags())
        held = zip(flat[0::2], flat[1::2], strict=True)
        known = self.mailbox.get_tags()
        unknown = sorted((int(tag), value) for tag, value in held if tag.isdigit() and tag.decode() not in known)
        found = [(str(tag), entry) for tag, value in unknown if (entry := _parse_in_flight_entry(value))]
        if len(found) < len(unknown):
            logger.error("in_flight_unreadable", key=inflight, count=len(unknown) - len(found))
        self.mailbox.add_adopted((tag, *entry) for tag, entry in found)
        self._must_adopt = False

    # --- handing over -----------------------------------------------------------------------------------------

    def deliver_ready(self) -> None:
        """Hand to Celery what can start now; what did not start in time goes back."""
        if not self._active_queues:
            return
        # Not more than there is room for now, and each time a look at what has waited for too long: where the event
        # loop runs the jobs itself (solo), handing over takes as long as the job.
        for _ in range(self.get_credit()):
            self.mailbox.requeue_late()
            fetched = self.mailbox.pop_startable()
            if fetched is None:
                break
            self._deliver_message(fetched)
        self.mailbox.requeue_late()

    def get_credit(self) -> int:
        """How many more messages Celery takes."""
        limit = self.qos.prefetch_count
        return max(0, limit - len(self.mailbox.delivered)) if limit else MAX_PREFETCH

    def _deliver_message(self, fetched: FetchedMessage) -> None:
        payload: Any = None
        try:
            payload = orjson.loads(fetched.message)
            payload["properties"]["delivery_tag"] = fetched.tag
            self.connection._deliver(payload, fetched.queue)
        except Exception as error:  # noqa: BLE001  nothing that stands in a queue may stop the worker
            logger.error(
                "message_unreadable", queue=fetched.queue, error=type(error).__name__, bytes=len(fetched.message)
            )
            headers = payload.get("headers") if isinstance(payload, dict) else None
            self.mailbox.reject(fetched.tag, headers, error, "the message cannot be read", fetched.queue)

    # --- connections ------------------------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from `queue`; if it holds jobs, the mailbox is emptied through this channel from now on."""
        if not no_ack:
            self.consumes_jobs = True
            self.mailbox.deliver_ready, self.mailbox.get_credit = self.deliver_ready, self.get_credit
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        answer = super()._basic_cancel(consumer_tag)
        # Nobody would read what is on its way.
        if self.consumes_jobs and not self.active_queues and self._in_poll and self._pending_request == "messages":
            with contextlib.suppress(Empty):
                self._brpop_read()
        return answer

    def pause_polling(self, seconds: float) -> None:
        """Ask nothing for a while."""
        self._paused_until = self.clock.monotonic() + seconds
        self.connection.cycle.poll_soon(seconds)

    def _receive(self) -> Any:
        """Remote control's messages; a connection that broke is opened again by the poller."""
        try:
            return super()._receive()
        except CONNECTION_ERRORS as error:
            logger.warning("control_connection_broke", error=str(error))
            self._in_listen = None
            self.subclient.connection.disconnect()
            self.connection.cycle.poll_soon()
            raise Empty from None

    def _on_connection_disconnect(self, connection: Any) -> None:
        """Whoever closes it (here, or kombu when an answer is overdue): an answer that was on its way is lost."""
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
        """Publish, and wake a worker up (what a job sends with Celery's own `.delay()` comes here).

        Answers to remote control are read by a program that waits for them; nothing of them may be left behind.
        """
        super()._put(queue, message, **kwargs)
        if queue.endswith(_PIDBOX_SUFFIX):
            self._create_client().expire(queue, _REPLY_TTL_SECONDS)
            return
        with self._create_client().pipeline(transaction=False) as pipe:
            notify_workers(pipe, queue)
            pipe.execute()

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller(self.Channel.clock)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Join Celery's event loop, with our poller's tick in place of kombu's."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        loop.on_tick.difference_update(loop.on_tick - before)
        self.cycle.attach_to_loop(loop, self.on_readable)


def _split_triples(flat: list[bytes]) -> Any:
    return zip(flat[0::3], flat[1::3], flat[2::3], strict=True)


def _parse_in_flight_entry(value: bytes) -> tuple[str, bytes] | None:
    """Return (queue, message) of an in-flight entry; None for what no fetch has written."""
    size, _, rest = value.partition(b":")
    try:
        queue = rest[: int(size)].decode().partition(SEPARATOR)[0]
    except ValueError:
        return None
    return queue, rest[int(size) :]
