"""A message is never outside Redis, and what was lost on a wire is told and done once."""

import signal
from pathlib import Path

import pytest

from jobworker.transport import keys
from jobworker.transport.broker.channel import _FETCH_SHA
from jobworker.transport.scripts.messages import ADOPT
from tests.integration.transport.proxy import Proxy, Sees
from tests.integration.transport.yard import Yard, is_busy
from tests.waiting import until


def _is_fetch(sent: bytes) -> bool:
    return _FETCH_SHA.encode() in sent


def _settles(what: str) -> Sees:
    """Whether a worker reports something of that kind."""

    def sees(sent: bytes) -> bool:
        return b"EVALSHA" in sent and b"$%d\r\n%s\r\n" % (len(what), what.encode()) in sent

    return sees


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_fetch_whose_answer_is_lost_is_adopted_and_runs_once(yard: Yard, proxy: Proxy, pool: str) -> None:
    worker = yard.worker("--pool", pool, JOBWORKER_REDIS_URL=proxy.url)
    proxy.cut_answer_to(_is_fetch)
    executions = yard.publish(count=5)
    until(proxy.has_cut.is_set, what="the answer to be cut")
    yard.all_done(executions)
    assert "fetch_connection_broke" in yard.engine.log(worker)
    assert worker.is_alive()


def test_messages_fetched_over_a_wire_that_was_cut_go_elsewhere_when_the_worker_dies(yard: Yard, proxy: Proxy) -> None:
    worker = yard.worker(JOBWORKER_REDIS_URL=proxy.url)
    proxy.cut_answer_to(_is_fetch)
    executions = yard.publish(count=2)
    until(proxy.has_cut.is_set, what="the answer to be cut")
    worker.end(signal.SIGKILL)
    taken = sum(len(flight) for flight in yard.in_flight().values())
    assert taken + yard.waiting() == 2 or any(yard.told())


@pytest.mark.parametrize("what", ["tell", "end"])
def test_report_whose_answer_is_lost_is_told_once(yard: Yard, proxy: Proxy, what: str, tmp_path: Path) -> None:
    yard.worker(JOBWORKER_REDIS_URL=proxy.url)
    gate = tmp_path / "gate"
    if what == "tell":
        proxy.cut_answer_to(_settles(what))
    held = yard.publish("wait_for_file", count=2, path=str(gate))
    until(is_busy(yard, held))
    if what == "end":
        proxy.cut_answer_to(_settles(what))
    gate.touch()
    until(proxy.has_cut.is_set, what="the answer to be cut")
    yard.all_done([*held, *yard.publish(count=10)])
