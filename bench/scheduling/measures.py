"""What is measured of schedules. Each function starts what it needs in a folder and answers figures."""

import datetime as dt
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import Celery
from redbeat.schedulers import RedBeatScheduler, acquire_distributed_beat_lock

from bench.rig import Rig, p99, until, url
from bench.scheduling import stock
from bench.scheduling.sides import Ours, Stock
from bench.table import Figure, at_most, ratio_at_most
from jobworker.settings import Settings
from jobworker.transport.beat import Scheduler
from jobworker.transport.celery_settings import celery_settings

_HOUR = 3600.0

#: From the moment when schedules are written to the one at which they are due (s): everything has started by then.
_AHEAD = 45

_TICKS = 500

#: How long is looked at many schedules (minutes), of which one in a hundred is due in each.
_MINUTES = 2
_EVERY = 6000.0


def burst(folder: Path, count: int) -> list[Figure]:
    """So many schedules are due in the same second: until the last is in the queue."""
    with Ours(folder / "ours") as ours:
        due = _soon()
        ours.insert_schedules(_HOUR, [due] * count)
        ours.register_fake_worker()
        ours.start_relay()
        ours.start_beat()
        until(lambda: ours.count_known_schedules() == count and ours.has_leading_beat(), what="all schedules in Redis")
        used = _cpu_at(ours, due)
        until(lambda: ours.count_fired_occurrences() >= count, every=0.03)
        rows = time.time() - due.timestamp()
        until(lambda: ours.count_published() >= count)
        mine, spent = time.time() - due.timestamp(), _spent(ours, used, count)
    with Stock(folder / "stock") as other:
        due = _soon()
        other.insert_schedules(_HOUR, [due] * count)
        other.start_beat()
        until(other.has_leading_beat, what="stock beat's lock")
        used = _cpu_at(other, due)
        until(lambda: other.count_published() >= count, within=300)
        theirs, stocks = time.time() - due.timestamp(), _spent(other, used, count)
    words = f"{count:,} schedules due in the same second"
    return [
        Figure(f"{words}: the last execution is Queued in SQL", "s", rows, target=at_most(2)),
        Figure(f"{words}: the last message is published", "s", mine, {"": theirs}, at_most(2)),
        *(
            Figure(f"{words}: CPU for each, {name}", "µs", value, {"": stocks[name]} if name in stocks else {})
            for name, value in spent.items()
        ),
    ]


def idle(folder: Path, count: int) -> list[Figure]:
    """A tick of either scheduler, in this process, while nothing of `count` entries is due."""
    with Rig(folder) as rig:
        mine, theirs = rig.start_redis("ours"), rig.start_redis("stock")
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        for client in (mine, theirs):
            stock.fill(client, _HOUR, [later] * count)
        app = Celery("ours", set_as_current=False)
        app.conf.update(celery_settings(Settings.from_environment({"JOBWORKER_REDIS_URL": url(mine)})))
        ours = _ticks(Scheduler(app), mine)
        peer = RedBeatScheduler(stock.make(url(theirs)))
        acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=peer))
        stocks = _ticks(peer, theirs)
    words = f"a tick with nothing due of {count:,}"
    return [
        Figure(f"{words}, CPU of beat", "µs", ours[0], {"": stocks[0]}, ratio_at_most(1)),
        Figure(f"{words}, CPU of Redis", "µs", ours[1], {"": stocks[1]}),
        Figure(f"{words}, round trips", "", ours[2], {"": stocks[2]}, ratio_at_most(1)),
    ]


def stored(folder: Path, count: int) -> list[Figure]:
    """So many schedules, of which one in a hundred is due in a minute: what it costs, and how late they start."""
    figures = []
    with Ours(folder / "ours") as ours, Stock(folder / "stock") as other:
        first = _soon(dt.timedelta(seconds=60 + count / 500))
        due = [first + dt.timedelta(seconds=number * _EVERY / count) for number in range(count)]
        ours.insert_schedules(_EVERY, due)
        other.insert_schedules(_EVERY, due)
        ours.start_relay()
        began = time.time()
        until(lambda: ours.count_known_schedules() == count, within=300, every=0.2, what="all schedules in Redis")
        written = time.time() - began
        figures.append(Figure(f"{count:,} schedules: written to an empty Redis", "s", written, target=at_most(60)))
        ours.start_worker()
        ours.start_beat()
        other.start_beat()
        until(lambda: ours.has_leading_beat() and other.has_leading_beat(), what="both beats")
        mine, theirs = _cpu_at(ours, first), _cpu(other)
        time.sleep(_MINUTES * 60)
        words = f"{count:,} schedules, {count // 100:,} due a minute"
        stocks = {name: (used - theirs[name]) / _MINUTES for name, used in _cpu(other).items()}
        for name, used in _cpu(ours).items():
            peer = {"": stocks[name]} if name in stocks else {}
            figures.append(Figure(f"{words}: CPU a minute, {name}", "s", (used - mine[name]) / _MINUTES, peer))
        for name, tree in ours.usage.items():
            peer = {"": other.usage[name].measure_pss()} if name in other.usage else {}
            figures.append(Figure(f"{words}: memory (PSS), {name}", "MiB", tree.measure_pss(), peer))
        late = ours.query_lateness()
        due_by_now = sum(at.timestamp() < time.time() for at in due)
        shares = [100 * done / due_by_now for done in (len(late), other.count_published())]
        figures.append(Figure(f"{words}: started (stock: published)", "%", shares[0], {"": shares[1]}))
    figures.append(Figure(f"{words}: nominal time → started, p99", "s", p99(late)))
    return [*figures, Figure(f"{words}: nominal time → started, the latest", "s", late[-1])]


def _soon(ahead: dt.timedelta = dt.timedelta(seconds=_AHEAD)) -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0) + ahead


def _cpu_at(rig: Rig, due: dt.datetime) -> dict[str, float]:
    """Wait until shortly before `due`; the CPU that each process has used by then."""
    left = due.timestamp() - time.time() - 0.5
    if left < 0:
        raise TimeoutError("everything should have started before the schedules are due")
    time.sleep(left)
    return _cpu(rig)


def _cpu(rig: Rig) -> dict[str, float]:
    return {name: tree.measure_cpu() for name, tree in rig.usage.items()}


def _spent(rig: Rig, before: dict[str, float], count: int) -> dict[str, float]:
    return {name: (used - before[name]) / count * 1e6 for name, used in _cpu(rig).items()}


def _ticks(scheduler: Any, client: Any) -> tuple[float, float, float]:
    """µs of CPU here, µs of CPU of Redis, and requests, for one tick."""
    scheduler.tick()
    before, used = _redis(client), time.process_time()
    for _ in range(_TICKS):
        scheduler.tick()
    used = time.process_time() - used
    cpu, reads = (later - earlier for earlier, later in zip(before, _redis(client), strict=True))
    # The second question about these figures was one of the requests.
    return used / _TICKS * 1e6, cpu / _TICKS * 1e6, (reads - 1) / _TICKS


def _redis(client: Any) -> tuple[float, float]:
    told = client.info("everything")
    return told["used_cpu_user"] + told["used_cpu_sys"], told["total_reads_processed"]
