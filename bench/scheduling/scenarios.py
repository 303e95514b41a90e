"""Scenarios for schedules. Each function starts its servers in a folder and returns measurements."""

import datetime as dt
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import Celery
from redbeat.schedulers import RedBeatScheduler, acquire_distributed_beat_lock

from bench.harness import Harness, compute_p99, get_redis_url, wait_until
from bench.report import Measurement, expect_at_most, expect_ratio_at_most
from bench.scheduling import baseline
from bench.scheduling.systems import CeleryScheduling, JobWorkerScheduling
from jobworker.settings import Settings
from jobworker.transport.beat import Scheduler
from jobworker.transport.celery_settings import build_celery_settings

_HOUR_SECONDS = 3600.0

#: Time (s) between writing schedules and their due time, in which all servers start.
_STARTUP_SECONDS = 45

_TICK_COUNT = 500

#: Duration (minutes) of the observation of stored schedules, of which one in a hundred is due per minute.
_OBSERVED_MINUTES = 2
_INTERVAL_SECONDS = 6000.0


def measure_burst(folder: Path, count: int) -> list[Measurement]:
    """Measure `count` schedules that are due in one second, until the last is in the queue."""
    with JobWorkerScheduling(folder / "ours") as ours:
        due = _compute_due_time()
        ours.insert_schedules(_HOUR_SECONDS, [due] * count)
        ours.register_fake_worker()
        ours.start_relay()
        ours.start_beat()
        wait_until(
            lambda: ours.count_known_schedules() == count and ours.has_leading_beat(), what="all schedules in Redis"
        )
        used = _measure_cpu_before(ours, due)
        wait_until(lambda: ours.count_fired_occurrences() >= count, every=0.03)
        rows = time.time() - due.timestamp()
        wait_until(lambda: ours.count_published() >= count)
        mine, spent = time.time() - due.timestamp(), _measure_cpu_per_schedule(ours, used, count)
    with CeleryScheduling(folder / "stock") as stock:
        due = _compute_due_time()
        stock.insert_schedules(_HOUR_SECONDS, [due] * count)
        stock.start_beat()
        wait_until(stock.has_leading_beat, what="stock beat's lock")
        used = _measure_cpu_before(stock, due)
        wait_until(lambda: stock.count_published() >= count, within=300)
        theirs, stocks = time.time() - due.timestamp(), _measure_cpu_per_schedule(stock, used, count)
    words = f"{count:,} schedules due in the same second"
    return [
        Measurement(f"{words}: the last execution is Queued in SQL", "s", rows, target=expect_at_most(2)),
        Measurement(f"{words}: the last message is published", "s", mine, {"": theirs}, expect_at_most(2)),
        *(
            Measurement(f"{words}: CPU for each, {name}", "µs", value, {"": stocks[name]} if name in stocks else {})
            for name, value in spent.items()
        ),
    ]


def measure_idle_tick(folder: Path, count: int) -> list[Measurement]:
    """Measure a tick of either scheduler in this process while none of `count` entries is due."""
    with Harness(folder) as rig:
        mine, theirs = rig.start_redis("ours"), rig.start_redis("stock")
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        for client in (mine, theirs):
            baseline.insert_schedules(client, _HOUR_SECONDS, [later] * count)
        app = Celery("ours", set_as_current=False)
        app.conf.update(build_celery_settings(Settings.from_environment({"JOBWORKER_REDIS_URL": get_redis_url(mine)})))
        ours = _measure_ticks(Scheduler(app), mine)
        peer = RedBeatScheduler(baseline.make_app(get_redis_url(theirs)))
        acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=peer))
        stocks = _measure_ticks(peer, theirs)
    words = f"a tick with nothing due of {count:,}"
    return [
        Measurement(f"{words}, CPU of beat", "µs", ours[0], {"": stocks[0]}, expect_ratio_at_most(1)),
        Measurement(f"{words}, CPU of Redis", "µs", ours[1], {"": stocks[1]}),
        Measurement(f"{words}, round trips", "", ours[2], {"": stocks[2]}, expect_ratio_at_most(1)),
    ]


def measure_stored(folder: Path, count: int) -> list[Measurement]:
    """Measure cost and lateness of `count` schedules, of which one in a hundred is due per minute."""
    figures = []
    with JobWorkerScheduling(folder / "ours") as ours, CeleryScheduling(folder / "stock") as stock:
        first = _compute_due_time(dt.timedelta(seconds=60 + count / 500))
        due = [first + dt.timedelta(seconds=number * _INTERVAL_SECONDS / count) for number in range(count)]
        ours.insert_schedules(_INTERVAL_SECONDS, due)
        stock.insert_schedules(_INTERVAL_SECONDS, due)
        ours.start_relay()
        began = time.time()
        wait_until(lambda: ours.count_known_schedules() == count, within=300, every=0.2, what="all schedules in Redis")
        written = time.time() - began
        figures.append(
            Measurement(f"{count:,} schedules: written to an empty Redis", "s", written, target=expect_at_most(60))
        )
        ours.start_worker()
        ours.start_beat()
        stock.start_beat()
        wait_until(lambda: ours.has_leading_beat() and stock.has_leading_beat(), what="both beats")
        mine, theirs = _measure_cpu_before(ours, first), _measure_cpu(stock)
        time.sleep(_OBSERVED_MINUTES * 60)
        words = f"{count:,} schedules, {count // 100:,} due a minute"
        stocks = {name: (used - theirs[name]) / _OBSERVED_MINUTES for name, used in _measure_cpu(stock).items()}
        for name, used in _measure_cpu(ours).items():
            peer = {"": stocks[name]} if name in stocks else {}
            figures.append(
                Measurement(f"{words}: CPU a minute, {name}", "s", (used - mine[name]) / _OBSERVED_MINUTES, peer)
            )
        for name, tree in ours.usage.items():
            peer = {"": stock.usage[name].measure_pss()} if name in stock.usage else {}
            figures.append(Measurement(f"{words}: memory (PSS), {name}", "MiB", tree.measure_pss(), peer))
        late = ours.query_lateness()
        due_by_now = sum(at.timestamp() < time.time() for at in due)
        shares = [100 * done / due_by_now for done in (len(late), stock.count_published())]
        figures.append(Measurement(f"{words}: started (stock: published)", "%", shares[0], {"": shares[1]}))
    figures.append(Measurement(f"{words}: nominal time → started, p99", "s", compute_p99(late)))
    return [*figures, Measurement(f"{words}: nominal time → started, the latest", "s", late[-1])]


def _compute_due_time(ahead: dt.timedelta = dt.timedelta(seconds=_STARTUP_SECONDS)) -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0) + ahead


def _measure_cpu_before(rig: Harness, due: dt.datetime) -> dict[str, float]:
    """Wait until shortly before `due` and return the CPU time that each process has used by then."""
    seconds_left = due.timestamp() - time.time() - 0.5
    if seconds_left < 0:
        raise TimeoutError("everything should have started before the schedules are due")
    time.sleep(seconds_left)
    return _measure_cpu(rig)


def _measure_cpu(rig: Harness) -> dict[str, float]:
    return {name: tree.measure_cpu() for name, tree in rig.usage.items()}


def _measure_cpu_per_schedule(rig: Harness, before: dict[str, float], count: int) -> dict[str, float]:
    return {name: (used - before[name]) / count * 1e6 for name, used in _measure_cpu(rig).items()}


def _measure_ticks(scheduler: Any, client: Any) -> tuple[float, float, float]:
    """Return the CPU time (µs) of this process, the CPU time (µs) of Redis, and the requests of one tick."""
    scheduler.tick()
    before, used = _read_redis_usage(client), time.process_time()
    for _ in range(_TICK_COUNT):
        scheduler.tick()
    used = time.process_time() - used
    cpu, reads = (later - earlier for earlier, later in zip(before, _read_redis_usage(client), strict=True))
    # The second `INFO` was one of the requests.
    return used / _TICK_COUNT * 1e6, cpu / _TICK_COUNT * 1e6, (reads - 1) / _TICK_COUNT


def _read_redis_usage(client: Any) -> tuple[float, float]:
    info = client.info("everything")
    return info["used_cpu_user"] + info["used_cpu_sys"], info["total_reads_processed"]
