"""Of two relays one leads, whatever the clocks of their hosts say and however alike their processes are."""

import datetime as dt

import pytest

from jobworker.clock import ManualClock
from jobworker.domain import events
from jobworker.domain.events import Kind
from jobworker.domain.execution import State
from jobworker.relay.leadership import SILENT_AFTER
from jobworker.relay.steps import NotLeading
from jobworker.transport import keys
from tests.conftest import NOW
from tests.integration.relay.conftest import World, hurried_relay


class Host:
    """A host with a relay and a clock of its own. All have the same name and process id, like containers may."""

    def __init__(self, world: World, redis_url: str, ahead: dt.timedelta) -> None:
        self.clock = ManualClock(NOW + ahead)
        self.relay = hurried_relay(world, redis_url, self.clock)

    def run_turn(self) -> bool:
        """Whether its relay leads after another turn."""
        try:
            self.relay.run_turn()
        except NotLeading:
            self.relay._offsets = None  # As `run` does.
            return False
        return True


@pytest.fixture(
    params=[dt.timedelta(hours=-1), dt.timedelta(), dt.timedelta(hours=1)], ids=["behind", "alike", "ahead"]
)
def hosts(request: pytest.FixtureRequest, world: World, redis_url: str) -> tuple[Host, Host]:
    """Two hosts; the clock of the second one is an hour behind, right, or an hour ahead."""
    world.resign_leadership()
    return Host(world, redis_url, dt.timedelta()), Host(world, redis_url, request.param)


def pass_time(seconds: float, *hosts: Host) -> None:
    for host in hosts:
        host.clock.advance(seconds)


def test_a_leader_that_lives_is_not_replaced(hosts: tuple[Host, Host]) -> None:
    leader, other = hosts
    assert leader.run_turn()
    for _ in range(20):
        pass_time(1, leader, other)
        assert leader.run_turn()
        assert not other.run_turn()


def test_a_dead_leader_is_replaced_within_seconds(hosts: tuple[Host, Host]) -> None:
    leader, other = hosts
    assert leader.run_turn()
    assert not other.run_turn()
    waited = 0.0
    while not other.run_turn():
        pass_time(0.5, other)
        waited += 0.5
    assert waited == SILENT_AFTER


def test_a_frozen_leader_that_wakes_up_writes_nothing(hosts: tuple[Host, Host], world: World) -> None:
    leader, other = hosts
    execution = world.submit()
    assert leader.run_turn()
    assert not other.run_turn()
    pass_time(SILENT_AFTER, other)
    assert other.run_turn()
    world.client.xadd(keys.EVENTS, events.encode(Kind.SUCCEEDED, execution, 1, {"result": 1}))  # type: ignore[arg-type]
    assert not leader.run_turn()
    assert world.get_execution(execution).state is State.QUEUED
    assert other.run_turn()
    assert world.get_execution(execution).state is State.SUCCEEDED
