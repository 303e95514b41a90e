"""Long absence of the relay: the stream of events stops growing, and the messages that are held back run later."""

from jobworker.transport import keys
from tests.integration.transport.transport_driver import TransportDriver
from tests.polling import wait_until

#: Lease (s), short enough that a worker's grace of four leases passes within the test.
_LEASE_SECONDS = "1"

_FILL_STREAM_SCRIPT = (
    "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'kind', 'due', 'execution', '', 'attempt', 0) end"
)


def test_workers_start_nothing_until_events_are_read(driver: TransportDriver) -> None:
    for count in (50_000, 50_001):
        driver.client.eval(_FILL_STREAM_SCRIPT, 1, keys.EVENTS, count)
    worker = driver.start_worker("--pool", "threads", JOBWORKER_WORKER_LEASE=_LEASE_SECONDS)
    executions = driver.publish(count=5)
    wait_until(
        lambda: driver.engine.read_log(worker).count("relay_is_behind") >= 3, what="a worker that waits for the relay"
    )
    worker.check_alive()
    assert driver.client.xlen(keys.EVENTS) == 100_001
    driver.client.xtrim(keys.EVENTS, maxlen=0)
    driver.expect_done(executions)
