"""Leadership: one of two relays leads, even if the clocks of their hosts differ and their process names are equal."""

import datetime as dt

import pytest

from jobworker.clock import ManualClock
from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.relay.leadership import SILENT_AFTER_SECONDS
from jobworker.relay.steps import NotLeader
from jobworker.transport import keys
from tests.conftest import NOW
from tests.integration.relay.conftest import DispatchDriver, create_relay


class RelayHost:
    """Host with a relay and its own clock. All have the same name and process id, as containers may."""

    def __init__(self, driver: DispatchDriver, redis_url: str, ahead: dt.timedelta) -> None:
        self.clock = ManualClock(NOW + ahead)
        self.relay = create_relay(driver, redis_url, self.clock)

    def run_turn(self) -> bool:
        """Run a turn and return whether the relay leads."""
        try:
            self.relay.run_turn()
        except NotLeader:
            self.relay._offsets = None  # `run` resets the offsets in this way.
            return False
        return True


@pytest.fixture(
    params=[dt.timedelta(hours=-1), dt.timedelta(), dt.timedelta(hours=1)], ids=["behind", "alike", "ahead"]
)
def hosts(request: pytest.FixtureRequest, driver: DispatchDriver, redis_url: str) -> tuple[RelayHost, RelayHost]:
    """Two hosts; the clock of the second one is an hour behind, equal, or an hour ahead."""
    driver.resign_leadership()
    return RelayHost(driver, redis_url, dt.timedelta()), RelayHost(driver, redis_url, request.param)


def advance_clocks(seconds: float, *hosts: RelayHost) -> None:
    for host in hosts:
        host.clock.advance(seconds)


def test_live_leader_is_not_replaced(hosts: tuple[RelayHost, RelayHost]) -> None:
    leader, standby = hosts
    assert leader.run_turn()
    for _ in range(20):
        advance_clocks(1, leader, standby)
        assert leader.run_turn()
        assert not standby.run_turn()


def test_dead_leader_is_replaced_within_seconds(hosts: tuple[RelayHost, RelayHost]) -> None:
    leader, standby = hosts
    assert leader.run_turn()
    assert not standby.run_turn()
    waited = 0.0
    while not standby.run_turn():
        advance_clocks(0.5, standby)
        waited += 0.5
    assert waited == SILENT_AFTER_SECONDS


def test_frozen_leader_that_resumes_writes_nothing(hosts: tuple[RelayHost, RelayHost], driver: DispatchDriver) -> None:
    leader, standby = hosts
    execution = driver.submit()
    assert leader.run_turn()
    assert not standby.run_turn()
    advance_clocks(SILENT_AFTER_SECONDS, standby)
    assert standby.run_turn()
    driver.client.xadd(keys.EVENTS, events.encode(EventKind.SUCCEEDED, execution, 1, {"result": 1}))  # type: ignore[arg-type]
    assert not leader.run_turn()
    assert driver.get_execution(execution).state is ExecutionState.QUEUED
    assert standby.run_turn()
    assert driver.get_execution(execution).state is ExecutionState.SUCCEEDED
