"""kill -9 under load: what is lost, and what runs twice. Nobody mends anything: there is no relay.

A second worker lives through it all: it takes what the dead one leaves and drains the rest at the end.
"""

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.diary import Start
from bench.rig import until
from bench.table import Figure, at_most
from bench.transport.bench import Bench
from bench.transport.sides import Ours, Side

_KILLS = 25
_PER_KILL = 1_500

#: The victim dies when so many of its 1,500 were started, by both workers together.
_EARLIEST, _LATEST = 50, 800

#: The worker that is never killed.
_SURVIVOR = "survivor"

#: For both: so long (s) a dead worker keeps what it held.
_LEASE = "2"

#: Kinds of events after which an attempt does not run any more.
_ENDS = frozenset({"succeeded", "failed", "timed_out", "cancelled", "expired", "rejected"})


def kill(bench: Bench) -> list[Figure]:
    """Both sides lose 25 workers over 37,500 messages."""
    with bench.make_jobworker(worker_lease=_LEASE) as ours:
        published = _kill_workers(bench, ours)
        until(lambda: _settled(ours), within=180, what="the survivor to drain everything")
        mine = _what_ours_did(published, bench.probe.get_starts(), ours.read_events())
    with bench.make_celery(visibility=_LEASE) as stock:
        published = _kill_workers(bench, stock)
        until(stock.is_done, within=300, every=0.1, what="the survivor to drain everything")
        time.sleep(1)  # One that was popped and not yet written down is on its way, not lost.
        theirs = _what_stock_did(published, bench.probe.get_starts())
    return _figures(mine, theirs)


@dataclass
class Outcome:
    """What became of the attempts; below `again` what only our side can tell."""

    #: Neither ended nor reported as gone down with its worker.
    lost: int = 0
    #: Started again although its first worker lived or had reported it.
    duplicates: int = 0
    #: Started again because its worker died before it had reported that.
    unreported_duplicates: int = 0
    #: Reported as gone down with its worker, for the relay to start the next attempt: it had started, or it only might.
    reported_lost_started: int = 0
    reported_lost_unstarted: int = 0
    ended_twice: int = 0
    poisoned: int = 0


def _kill_workers(bench: Bench, side: Side) -> list[str]:
    bench.probe.clear()
    side.start_worker(_SURVIVOR)
    published: list[str] = []
    for number in range(_KILLS):
        victim = f"victim{number}"
        side.start_worker(victim)
        enough = bench.probe.count_starts() + random.randint(_EARLIEST, _LATEST)
        numbers = range(number * _PER_KILL, (number + 1) * _PER_KILL)
        published += side.publish("note", ({"number": each} for each in numbers))
        until(lambda: bench.probe.count_starts() >= enough, every=0.002, what="work to be under way")  # noqa: B023
        time.sleep(random.uniform(0, 0.02))
        side.kill(victim)
    return published


def _settled(ours: Ours) -> bool:
    """Only the survivor is left, and nothing is queued or in flight."""
    survivors = [worker for worker in ours.list_worker_ids() if _is_survivor(worker)]
    return ours.list_worker_ids() == survivors and ours.is_drained()


def _is_survivor(worker: str) -> bool:
    return worker.startswith(_SURVIVOR)


@dataclass
class _Reported:
    """What our workers said of one execution."""

    running: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def final_count(self) -> int:
        return sum(self.kinds[kind] for kind in _ENDS)

    @property
    def is_reported_lost(self) -> bool:
        """Whether the relay learns that the attempt ran, or was about to, on a worker that died."""
        return bool(self.kinds["lost"]) or any(not _is_survivor(worker) for worker in self.running)


def _what_ours_did(published: Iterable[str], starts: Iterable[Start], events: Iterable[Mapping[str, str]]) -> Outcome:
    reported = _by_execution(events)
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for start in starts:
        runs[start.execution].append(start.worker)
    outcome = Outcome()
    for execution in published:
        said = reported[execution]
        poisoned = bool(said.kinds["poisoned"])
        if not said.final_count and not poisoned:
            outcome.lost += not said.is_reported_lost
            outcome.reported_lost_started += said.is_reported_lost and execution in runs
            outcome.reported_lost_unstarted += said.is_reported_lost and execution not in runs
        outcome.ended_twice += said.final_count > 1
        outcome.poisoned += poisoned
        for earlier in runs[execution][:-1] if execution in runs else ():
            allowed = not _is_survivor(earlier) and earlier not in said.running
            outcome.unreported_duplicates += allowed
            outcome.duplicates += not allowed
    return outcome


def _by_execution(events: Iterable[Mapping[str, str]]) -> defaultdict[str, _Reported]:
    reported: defaultdict[str, _Reported] = defaultdict(_Reported)
    for fields in events:
        said = reported[fields["execution"]]
        if fields["kind"] == "running":
            said.running.add(json.loads(fields["data"])["worker"])
        said.kinds[fields["kind"]] += 1
    return reported


def _what_stock_did(published: Iterable[str], starts: Iterable[Start]) -> Outcome:
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for start in starts:
        runs[start.execution].append(start.worker)
    again = sum(_is_survivor(earlier) for workers in runs.values() for earlier in workers[:-1])
    return Outcome(lost=sum(each not in runs for each in published), duplicates=again)


def _figures(mine: Outcome, theirs: Outcome) -> list[Figure]:
    what = f"{_KILLS} × kill -9, {_KILLS * _PER_KILL:,} messages"
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
        Figure(f"{what}: {name}", "messages", ours, {} if stock is None else {"": stock}, at_most(0) if asked else None)
        for name, ours, stock, asked in rows
    ]
