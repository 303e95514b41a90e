"""How workers end, and what becomes of what they have in hand. Each worker has a queue of its own."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import LEASE
from tests.integration.endings.conftest import BATCHED, STOCK, Kind
from tests.integration.endings.post import Post, post_office
from tests.servers import Process
from tests.waiting import until

#: Longer than a lease, so a worker that nobody beats for is given up.
_LONG = LEASE + 2

#: Those whose jobs can be interrupted.
_INTERRUPTIBLE = [BATCHED[0], STOCK]

#: One that is told to end by remote control.
_ASKED = Kind("prefork", "asked")


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    """A post office without workers."""
    with post_office(tmp_path) as post:
        yield post


def _start(post: Post, kind: Kind, soft: float = 0, slots: int = 2) -> Process:
    options = ["-Q", str(kind), "-n", f"{kind}@here", "-c", str(slots), "--", f"worker.soft_shutdown_timeout={soft}"]
    return post.worker(kind.pool, *options, JOBWORKER_TRANSPORT="stock" if kind is STOCK else "batched")


def _hold(post: Post, kind: Kind, seconds: float) -> str:
    execution = post.send("hold", str(kind), seconds=seconds)
    until(lambda: post.is_running(execution), what=f"a job on {kind}")
    return execution


def _ended_in_good_order(post: Post, *workers: Process) -> None:
    """They are gone, nobody was given up, nothing is in flight, and they have said goodbye."""
    post.ended(*workers)
    assert post.kinds() == [], "worker_lost"
    assert post.in_flight() == []
    assert post.workers() == set()
    assert all("Unrecoverable error" not in worker.log.read_text() for worker in workers)


def test_warm_jobs_end_while_the_worker_is_kept_alive(post: Post) -> None:
    """Told so by a signal, or, the one with a name, by remote control."""
    kinds = [*BATCHED, STOCK, _ASKED]
    workers = {kind: _start(post, kind, slots=1) for kind in kinds}
    held = {kind: _hold(post, kind, _LONG) for kind in kinds}
    rest = [post.send("noop", str(kind)) for kind in kinds]
    for kind, worker in workers.items():
        if kind is not _ASKED:
            worker.send(signal.SIGTERM)
    post.control.shutdown(destination=[f"{_ASKED}@here"])

    _ended_in_good_order(post, *workers.values())
    for kind in kinds:
        assert post.kinds(held[kind]) == ["running", "succeeded"], kind
        assert post.waiting(str(kind)) == 1, "nothing new is begun"
    assert [post.kinds(execution) for execution in rest] == [[]] * len(kinds)


def test_soft_what_ends_in_time_has_ended_and_the_rest_is_interrupted(post: Post) -> None:
    workers = [_start(post, kind, soft=LEASE + 1) for kind in _INTERRUPTIBLE]
    short = [_hold(post, kind, 1) for kind in _INTERRUPTIBLE]
    long = [_hold(post, kind, 60) for kind in _INTERRUPTIBLE]
    for worker in workers:
        worker.send(signal.SIGQUIT)
    _ended_in_good_order(post, *workers)
    assert [post.kinds(execution) for execution in short] == [["running", "succeeded"]] * 2
    assert [post.kinds(execution) for execution in long] == [["running", "interrupted"]] * 2
    assert set(post.engine.ends()) == {(execution, 1) for execution in short}


def test_soft_a_second_signal_makes_it_cold(post: Post) -> None:
    kind = BATCHED[0]
    worker = _start(post, kind, soft=60)
    held = _hold(post, kind, 60)
    worker.send(signal.SIGQUIT)
    until(lambda: "worker_stops_softly" in worker.log.read_text())
    worker.send(signal.SIGQUIT)
    _ended_in_good_order(post, worker)
    assert post.kinds(held) == ["running", "interrupted"]


@pytest.mark.parametrize("first", [(), (signal.SIGTERM,)], ids=["at once", "while it is warm"])
def test_cold_what_runs_is_interrupted(post: Post, first: tuple[signal.Signals, ...]) -> None:
    workers = [_start(post, kind) for kind in _INTERRUPTIBLE]
    held = [_hold(post, kind, 60) for kind in [*_INTERRUPTIBLE, *_INTERRUPTIBLE]]
    for worker in workers:
        for number in first:
            worker.send(number)
    until(lambda: all("Warm shutdown" in worker.log.read_text() for worker in workers) or not first)
    for worker in workers:
        worker.send(signal.SIGQUIT)
    _ended_in_good_order(post, *workers)
    assert [post.kinds(execution) for execution in held] == [["running", "interrupted"]] * 4
    assert not post.engine.ends()


def test_cold_threads_are_waited_for(post: Post) -> None:
    """Told so by SIGQUIT, or by Ctrl-C and Ctrl-C again."""
    by_signal, by_keyboard = BATCHED[1:], [Kind("threads", "keyboard"), Kind("solo", "keyboard")]
    workers = {kind: _start(post, kind) for kind in [*by_signal, *by_keyboard]}
    held = [_hold(post, kind, 3) for kind in workers]
    for kind in by_signal:
        workers[kind].send(signal.SIGQUIT)
    for kind in by_keyboard:
        workers[kind].send(signal.SIGINT)
        until(lambda kind=kind: "Warm shutdown" in workers[kind].log.read_text())  # type: ignore[misc]
        workers[kind].send(signal.SIGINT)
    _ended_in_good_order(post, *workers.values())
    assert [post.kinds(execution) for execution in held] == [["running", "succeeded"]] * 4


def test_what_was_held_back_is_the_next_ones_unstarted(post: Post) -> None:
    """Fetched, and kept back by a rate limit: it goes back as the attempt that it was."""
    workers = {kind: _start(post, kind) for kind in BATCHED}
    held = []
    for kind in BATCHED:
        post.told("succeeded", post.send("hourly", str(kind)))
        held.append(post.send("hourly", str(kind)))
    until(lambda: len(post.in_flight()) == len(held), what="the second ones to be fetched")
    for worker in workers.values():
        worker.send(signal.SIGTERM)
    _ended_in_good_order(post, *workers.values())
    assert [post.kinds(execution) for execution in held] == [[]] * 3
    assert [post.waiting(str(kind)) for kind in BATCHED] == [1] * 3
    assert [post.record(execution) for execution in held] == [(0, "finished")] * 3


def test_killed_what_ran_is_lost_and_the_rest_was_never_taken(post: Post) -> None:
    kinds = [*BATCHED, STOCK]
    workers = {kind: _start(post, kind) for kind in kinds}
    held = {kind: _hold(post, kind, 60) for kind in kinds}
    for worker in workers.values():
        worker.end(signal.SIGKILL)
    until(lambda: post.reap() and not post.workers(), what="all of them to be given up")
    assert post.kinds() == ["worker_lost"] * len(kinds)
    assert [post.kinds(held[kind]) for kind in BATCHED] == [["running", "lost"]] * 3


def test_processes_are_replaced_between_jobs(post: Post) -> None:
    kind = BATCHED[0]
    post.worker("prefork", "-Q", str(kind), "-c", "1", "--max-tasks-per-child", "2")
    done = [post.send("noop", str(kind)) for _ in range(7)]
    for execution in done:
        post.told("succeeded", execution)
    assert {tuple(post.kinds(execution)) for execution in done} == {("running", "succeeded")}
    processes = [post.process_of(execution) for execution in done]
    assert len(set(processes)) == 4
    post.nothing_left(str(kind))
