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
    return post.start_worker(kind.pool, *options, JOBWORKER_TRANSPORT="stock" if kind is STOCK else "batched")


def _hold(post: Post, kind: Kind, seconds: float) -> str:
    execution = post.publish("hold", str(kind), seconds=seconds)
    until(lambda: post.is_running(execution), what=f"a job on {kind}")
    return execution


def _ended_in_good_order(post: Post, *workers: Process) -> None:
    """They are gone, nobody was given up, nothing is in flight, and they have said goodbye."""
    post.wait_until_ended(*workers)
    assert post.list_event_kinds() == [], "worker_lost"
    assert post.list_in_flight() == []
    assert post.list_workers() == set()
    assert all("Unrecoverable error" not in worker.log.read_text() for worker in workers)


def test_warm_jobs_end_while_the_worker_is_kept_alive(post: Post) -> None:
    """Told so by a signal, or, the one with a name, by remote control."""
    kinds = [*BATCHED, STOCK, _ASKED]
    workers = {kind: _start(post, kind, slots=1) for kind in kinds}
    held = {kind: _hold(post, kind, _LONG) for kind in kinds}
    rest = [post.publish("noop", str(kind)) for kind in kinds]
    for kind, worker in workers.items():
        if kind is not _ASKED:
            worker.send_signal(signal.SIGTERM)
    post.control.shutdown(destination=[f"{_ASKED}@here"])

    _ended_in_good_order(post, *workers.values())
    for kind in kinds:
        assert post.list_event_kinds(held[kind]) == ["running", "succeeded"], kind
        assert post.count_queued(str(kind)) == 1, "nothing new is begun"
    assert [post.list_event_kinds(execution) for execution in rest] == [[]] * len(kinds)


def test_soft_what_ends_in_time_has_ended_and_the_rest_is_interrupted(post: Post) -> None:
    workers = [_start(post, kind, soft=LEASE + 1) for kind in _INTERRUPTIBLE]
    short = [_hold(post, kind, 1) for kind in _INTERRUPTIBLE]
    long = [_hold(post, kind, 60) for kind in _INTERRUPTIBLE]
    for worker in workers:
        worker.send_signal(signal.SIGQUIT)
    _ended_in_good_order(post, *workers)
    assert [post.list_event_kinds(execution) for execution in short] == [["running", "succeeded"]] * 2
    assert [post.list_event_kinds(execution) for execution in long] == [["running", "interrupted"]] * 2
    assert set(post.engine.count_ends()) == {(execution, 1) for execution in short}


def test_soft_a_second_signal_makes_it_cold(post: Post) -> None:
    kind = BATCHED[0]
    worker = _start(post, kind, soft=60)
    held = _hold(post, kind, 60)
    worker.send_signal(signal.SIGQUIT)
    until(lambda: "worker_stops_softly" in worker.log.read_text())
    worker.send_signal(signal.SIGQUIT)
    _ended_in_good_order(post, worker)
    assert post.list_event_kinds(held) == ["running", "interrupted"]


@pytest.mark.parametrize("first", [(), (signal.SIGTERM,)], ids=["at once", "while it is warm"])
def test_cold_what_runs_is_interrupted(post: Post, first: tuple[signal.Signals, ...]) -> None:
    workers = [_start(post, kind) for kind in _INTERRUPTIBLE]
    held = [_hold(post, kind, 60) for kind in [*_INTERRUPTIBLE, *_INTERRUPTIBLE]]
    for worker in workers:
        for number in first:
            worker.send_signal(number)
    until(lambda: all("Warm shutdown" in worker.log.read_text() for worker in workers) or not first)
    for worker in workers:
        worker.send_signal(signal.SIGQUIT)
    _ended_in_good_order(post, *workers)
    assert [post.list_event_kinds(execution) for execution in held] == [["running", "interrupted"]] * 4
    assert not post.engine.count_ends()


def test_cold_threads_are_waited_for(post: Post) -> None:
    """Told so by SIGQUIT, or by Ctrl-C and Ctrl-C again."""
    by_signal, by_keyboard = BATCHED[1:], [Kind("threads", "keyboard"), Kind("solo", "keyboard")]
    workers = {kind: _start(post, kind) for kind in [*by_signal, *by_keyboard]}
    held = [_hold(post, kind, 3) for kind in workers]
    for kind in by_signal:
        workers[kind].send_signal(signal.SIGQUIT)
    for kind in by_keyboard:
        workers[kind].send_signal(signal.SIGINT)
        until(lambda kind=kind: "Warm shutdown" in workers[kind].log.read_text())  # type: ignore[misc]
        workers[kind].send_signal(signal.SIGINT)
    _ended_in_good_order(post, *workers.values())
    assert [post.list_event_kinds(execution) for execution in held] == [["running", "succeeded"]] * 4


def test_what_was_held_back_is_the_next_ones_unstarted(post: Post) -> None:
    """Fetched, and kept back by a rate limit: it goes back as the attempt that it was."""
    workers = {kind: _start(post, kind) for kind in BATCHED}
    held = []
    for kind in BATCHED:
        post.wait_for_event("succeeded", post.publish("hourly", str(kind)))
        held.append(post.publish("hourly", str(kind)))
    until(lambda: len(post.list_in_flight()) == len(held), what="the second ones to be fetched")
    for worker in workers.values():
        worker.send_signal(signal.SIGTERM)
    _ended_in_good_order(post, *workers.values())
    assert [post.list_event_kinds(execution) for execution in held] == [[]] * 3
    assert [post.count_queued(str(kind)) for kind in BATCHED] == [1] * 3
    assert [post.get_run_record(execution) for execution in held] == [(0, "finished")] * 3


def test_killed_what_ran_is_lost_and_the_rest_was_never_taken(post: Post) -> None:
    kinds = [*BATCHED, STOCK]
    workers = {kind: _start(post, kind) for kind in kinds}
    held = {kind: _hold(post, kind, 60) for kind in kinds}
    for worker in workers.values():
        worker.terminate(signal.SIGKILL)
    until(lambda: post.reap_silent_workers() and not post.list_workers(), what="all of them to be given up")
    assert post.list_event_kinds() == ["worker_lost"] * len(kinds)
    assert [post.list_event_kinds(held[kind]) for kind in BATCHED] == [["running", "lost"]] * 3


def test_processes_are_replaced_between_jobs(post: Post) -> None:
    kind = BATCHED[0]
    post.start_worker("prefork", "-Q", str(kind), "-c", "1", "--max-tasks-per-child", "2")
    done = [post.publish("noop", str(kind)) for _ in range(7)]
    for execution in done:
        post.wait_for_event("succeeded", execution)
    assert {tuple(post.list_event_kinds(execution)) for execution in done} == {("running", "succeeded")}
    processes = [post.get_attempt_pid(execution) for execution in done]
    assert len(set(processes)) == 4
    post.wait_until_empty(str(kind))
