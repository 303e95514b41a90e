"""Benchmark of kill -9 under load: lost and duplicate attempts. There is no relay that rescues executions.

A second worker survives all kills: it fetches the messages of the dead workers and drains the rest at the end.
"""

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.harness import wait_until
from bench.probe import JobStart
from bench.report import Measurement, expect_at_most
from bench.transport.context import TransportContext
from bench.transport.systems import JobWorkerTransport, TransportSystem

_KILL_COUNT = 25
_MESSAGES_PER_KILL = 1_500

#: Range of the number of its 1,500 messages that both workers have started when the victim is killed.
_MIN_STARTS_BEFORE_KILL, _MAX_STARTS_BEFORE_KILL = 50, 800

#: Name of the worker that is never killed.
_SURVIVOR_NAME = "survivor"

#: Time (s) after which the messages of a dead worker are returned, in both systems.
_LEASE_SECONDS = "2"

#: Kinds of events that end an attempt.
_FINAL_KINDS = frozenset({"succeeded", "failed", "timed_out", "cancelled", "expired", "rejected"})


def measure_kills(bench: TransportContext) -> list[Measurement]:
    """Measure the losses when 25 workers are killed over 37,500 messages, in both systems."""
    with bench.make_jobworker(worker_lease=_LEASE_SECONDS) as ours:
        published = _kill_workers(bench, ours)
        wait_until(lambda: _is_drained(ours), within=180, what="the survivor to drain everything")
        mine = _count_jobworker_deliveries(published, bench.probe.get_starts(), ours.read_events())
    with bench.make_celery(visibility=_LEASE_SECONDS) as stock:
        published = _kill_workers(bench, stock)
        wait_until(stock.is_done, within=300, every=0.1, what="the survivor to drain everything")
        time.sleep(1)  # A message that was popped and not yet recorded as unacknowledged is not lost.
        theirs = _count_celery_deliveries(published, bench.probe.get_starts())
    return _make_measurements(mine, theirs)


@dataclass
class DeliveryCounts:
    """Numbers of attempts by outcome. Fields after `duplicates` are counted for JobWorker only."""

    #: Neither ended nor reported as lost with its worker.
    lost: int = 0
    #: Started again although its first worker was alive or had reported the start.
    duplicates: int = 0
    #: Started again because its worker died before it reported the start.
    unreported_duplicates: int = 0
    #: Reported as lost with its worker, so that the relay starts the next attempt: it had started, or only might have.
    reported_lost_started: int = 0
    reported_lost_unstarted: int = 0
    ended_twice: int = 0
    poisoned: int = 0


def _kill_workers(bench: TransportContext, side: TransportSystem) -> list[str]:
    bench.probe.clear()
    side.start_worker(_SURVIVOR_NAME)
    published: list[str] = []
    for number in range(_KILL_COUNT):
        victim = f"victim{number}"
        side.start_worker(victim)
        enough = bench.probe.count_starts() + random.randint(_MIN_STARTS_BEFORE_KILL, _MAX_STARTS_BEFORE_KILL)
        numbers = range(number * _MESSAGES_PER_KILL, (number + 1) * _MESSAGES_PER_KILL)
        published += side.publish("note", ({"number": message_number} for message_number in numbers))
        wait_until(lambda: bench.probe.count_starts() >= enough, every=0.002, what="work to be under way")  # noqa: B023
        time.sleep(random.uniform(0, 0.02))
        side.kill(victim)
    return published


def _is_drained(ours: JobWorkerTransport) -> bool:
    """Return whether only the survivor is left and no message is queued or in flight."""
    survivors = [worker for worker in ours.list_worker_ids() if _is_survivor(worker)]
    return ours.list_worker_ids() == survivors and ours.is_drained()


def _is_survivor(worker: str) -> bool:
    return worker.startswith(_SURVIVOR_NAME)


@dataclass
class _ExecutionEvents:
    """Events that JobWorker's workers reported for one execution."""

    running: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def final_count(self) -> int:
        return sum(self.kinds[kind] for kind in _FINAL_KINDS)

    @property
    def is_reported_lost(self) -> bool:
        """True if the relay can detect that the attempt ran, or was about to run, on a worker that died."""
        return bool(self.kinds["lost"]) or any(not _is_survivor(worker) for worker in self.running)


def _count_jobworker_deliveries(
    published: Iterable[str], starts: Iterable[JobStart], events: Iterable[Mapping[str, str]]
) -> DeliveryCounts:
    reported = _group_by_execution(events)
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for start in starts:
        runs[start.execution].append(start.worker)
    outcome = DeliveryCounts()
    for execution in published:
        execution_events = reported[execution]
        poisoned = bool(execution_events.kinds["poisoned"])
        if not execution_events.final_count and not poisoned:
            outcome.lost += not execution_events.is_reported_lost
            outcome.reported_lost_started += execution_events.is_reported_lost and execution in runs
            outcome.reported_lost_unstarted += execution_events.is_reported_lost and execution not in runs
        outcome.ended_twice += execution_events.final_count > 1
        outcome.poisoned += poisoned
        for earlier in runs[execution][:-1] if execution in runs else ():
            allowed = not _is_survivor(earlier) and earlier not in execution_events.running
            outcome.unreported_duplicates += allowed
            outcome.duplicates += not allowed
    return outcome


def _group_by_execution(events: Iterable[Mapping[str, str]]) -> defaultdict[str, _ExecutionEvents]:
    reported: defaultdict[str, _ExecutionEvents] = defaultdict(_ExecutionEvents)
    for fields in events:
        execution_events = reported[fields["execution"]]
        if fields["kind"] == "running":
            execution_events.running.add(json.loads(fields["data"])["worker"])
        execution_events.kinds[fields["kind"]] += 1
    return reported


def _count_celery_deliveries(published: Iterable[str], starts: Iterable[JobStart]) -> DeliveryCounts:
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for start in starts:
        runs[start.execution].append(start.worker)
    duplicates = sum(_is_survivor(earlier) for workers in runs.values() for earlier in workers[:-1])
    return DeliveryCounts(lost=sum(execution not in runs for execution in published), duplicates=duplicates)


def _make_measurements(mine: DeliveryCounts, theirs: DeliveryCounts) -> list[Measurement]:
    label = f"{_KILL_COUNT} × kill -9, {_KILL_COUNT * _MESSAGES_PER_KILL:,} messages"
    rows = [
        ("lost", mine.lost, theirs.lost, True),
        ("started twice though its worker lived or had reported it", mine.duplicates, theirs.duplicates, True),
        ("ended twice", mine.ended_twice, None, True),
        ("poisoned", mine.poisoned, None, True),
        ("started twice, its worker had died before it could report", mine.unreported_duplicates, None, False),
        ("down with their worker and reported so, started", mine.reported_lost_started, None, False),
        ("down with their worker and reported so, not started", mine.reported_lost_unstarted, None, False),
    ]
    return [
        Measurement(
            f"{label}: {name}",
            "messages",
            ours,
            {} if stock is None else {"": stock},
            expect_at_most(0) if is_bounded else None,
        )
        for name, ours, stock, is_bounded in rows
    ]
