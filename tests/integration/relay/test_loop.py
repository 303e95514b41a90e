"""How long a turn sleeps."""

from jobworker.relay.loop import Relay
from jobworker.relay.read import Batch, Offsets
from jobworker.settings import Settings
from tests.integration.relay.conftest import World, worker


class Asleep:
    """Reads nothing, and notes how long it might have slept."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def read(self, offsets: Offsets, wait: float) -> Batch:
        self.waits.append(wait)
        return Batch(offsets)

    def trim(self, offsets: Offsets) -> None:
        """There is nothing."""


def test_a_turn_sleeps_shortly_while_a_cancellation_is_undecided(world: World, redis_url: str) -> None:
    relay = Relay(world.database, redis_url, world.clock, Settings.from_environment({}))
    asleep = relay._reader = Asleep()  # type: ignore[assignment]
    relay._dispatcher.workers = [worker(world.clock.now())]
    execution = world.submit()
    world.fetch(execution)
    world.cancel(execution)

    def turn() -> float:
        relay.turn()
        world.clock.advance(asleep.waits[-1])
        return asleep.waits[-1]

    first, second = turn(), turn()
    assert second <= first / 5, "it asks again soon"
    assert turn() == second, "and again"
    world.give_back(execution)
    turn()
    assert world.get(execution).state == "Cancelled"
    assert turn() == first
