"""What is measured end to end. Each function takes both sides, started, and answers figures."""

import statistics
import threading
import time
from dataclasses import dataclass, field

from bench.rig import p99, paced, until
from bench.system.sides import Bare, Client, Ours
from bench.table import Figure

_SUBMIT = "/api/v1/jobs/noop/executions"


def drain(ours: Ours, bare: Bare, count: int) -> list[Figure]:
    """No-ops from all accepted to all final in SQL, and from all queued to all acknowledged."""
    before, cpu = ours.count_final(), _cpu(ours)
    _submit_batch(ours, count)
    began = time.perf_counter()
    until(lambda: ours.count_final() >= before + count, every=0.05)
    rate = count / (time.perf_counter() - began)
    used = {name: (value - cpu[name]) / count * 1e6 for name, value in _cpu(ours).items()}

    bare_rate, bare_used = _drain_bare(bare, count)
    rows = [_figure("drain of no-ops, recorded as final", "jobs/s", rate, bare_rate)]
    rows += [_figure(f"CPU per job, {name}", "µs", value, bare_used.get(name)) for name, value in used.items()]
    return rows


def _drain_bare(bare: Bare, count: int) -> tuple[float, dict[str, float]]:
    with bare.app.app.connection_for_write() as connection:
        producer = connection.Producer()
        for number in range(count):
            bare.app.noop.apply_async((number,), queue="staged", producer=producer)
    cpu = _cpu(bare)
    # All at once into the queue that the worker watches, so that publishing is not part of the figure.
    bare.broker.rename("staged", "bare")
    began = time.perf_counter()
    until(bare.is_done, every=0.02)
    rate = count / (time.perf_counter() - began)
    return rate, {name: (value - cpu[name]) / count * 1e6 for name, value in _cpu(bare).items()}


def submissions(ours: Ours, bare: Bare, count: int) -> list[Figure]:
    """Single submissions over HTTP by eight clients, beside `apply_async` in a loop; CPU until all are final."""
    before, cpu = ours.count_final(), _cpu(ours)
    began = time.perf_counter()
    threads = [threading.Thread(target=_submit_singles, args=(ours.http.port, count // 8)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = count // 8 * 8
    rate = sent / (time.perf_counter() - began)
    until(lambda: ours.count_final() >= before + sent, every=0.05)
    used = {name: (value - cpu[name]) / sent * 1e6 for name, value in _cpu(ours).items()}
    bare_rate = _apply_async_rate(bare, count)
    rows = [_figure("single submissions over HTTP (stock: apply_async)", "1/s", rate, bare_rate)]
    return rows + [_figure(f"CPU per single submission, {name}", "µs", value, None) for name, value in used.items()]


def bulk(ours: Ours, bare: Bare, count: int) -> list[Figure]:
    """One request with `count` executions, beside as many `apply_async`."""
    began = time.perf_counter()
    _submit_batch(ours, count)
    rate = count / (time.perf_counter() - began)
    bare_rate = _apply_async_rate(bare, count)
    return [_figure("bulk submissions in one request (stock: apply_async)", "1/s", rate, bare_rate)]


def latency(ours: Ours, bare: Bare, per_second: int, seconds: int) -> list[Figure]:
    """Accepted → started at a steady rate, beside published → body."""
    known = ours.count_final()
    for _ in paced(per_second, seconds):
        ours.http.submit(_SUBMIT, {"parameters": {}})
    until(lambda: ours.count_final() >= known + per_second * seconds)
    mine = sorted(ours.query_latencies()[-per_second * seconds :])
    bare.broker.delete("bare:latencies")
    for _ in paced(per_second, seconds):
        bare.app.stamp.apply_async((time.time(),))
    until(lambda: bare.broker.llen("bare:latencies") >= per_second * seconds)
    theirs = sorted(float(value) for value in bare.broker.lrange("bare:latencies", 0, -1))
    what = f"accepted → started at {per_second}/s"
    return [
        _figure(f"{what}, p50", "ms", statistics.median(mine) * 1e3, statistics.median(theirs) * 1e3),
        _figure(f"{what}, p99", "ms", p99(mine) * 1e3, p99(theirs) * 1e3),
    ]


def flood(ours: Ours) -> list[Figure]:
    """From a submission to its end in SQL: alone, while another job prints a gibibyte, and while one fills its log."""
    quiet = _Seen("alone", _round_trips(ours, seconds=10))
    gibibyte = _beside(ours, "while another job prints 1 GiB", lines=128 * 1024, length=8 * 1024)
    short = _beside(ours, "while another job writes short lines", lines=45_000, length=200)
    rows = [
        _figure(f"submitted → Succeeded, {seen.condition}, {name}", "ms", value * 1e3, None)
        for seen in (quiet, gibibyte, short)
        for name, value in (("p50", statistics.median(seen.round_trips)), ("p99", p99(sorted(seen.round_trips))))
    ]
    grown = gibibyte.memory_growth.items()
    return rows + [
        _figure(f"memory (PSS) that 1 GiB of output takes, {name}", "MiB", size, None) for name, size in grown
    ]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Round trips (s) and how much each process grew meanwhile (MiB)."""

    condition: str
    round_trips: list[float]
    memory_growth: dict[str, float] = field(default_factory=dict)


def _beside(ours: Ours, what: str, **parameters: int) -> _Seen:
    before = {name: tree.measure_pss() for name, tree in ours.usage.items()}
    seen = _Seen(what, [], dict.fromkeys(before, 0.0))
    ours.http.submit("/api/v1/jobs/floods/executions", {"parameters": parameters})
    until(lambda: ours.broker.xlen("jw:logs"))
    unfinished = "/api/v1/executions?job=floods&state=Running&limit=1"
    while not seen.round_trips or ours.http.request("GET", unfinished)[1]["items"]:
        seen.round_trips.extend(_round_trips(ours, seconds=1))
        for name, tree in ours.usage.items():
            seen.memory_growth[name] = max(seen.memory_growth[name], tree.measure_pss() - before[name])
    return seen


def _round_trips(ours: Ours, seconds: int) -> list[float]:
    taken = []
    for _ in paced(5, seconds):
        began = time.perf_counter()
        ours.http.submit_and_wait(_SUBMIT, {"parameters": {}})
        taken.append(time.perf_counter() - began)
    return taken


def memory(ours: Ours, bare: Bare) -> list[Figure]:
    """Proportional set size of each process with its children."""
    return [
        _figure(f"memory (PSS), {name}", "MiB", tree.measure_pss(), bare.usage[name].measure_pss() if name in bare.usage else None)
        for name, tree in ours.usage.items()
    ]


def _figure(what: str, unit: str, ours: float, bare: float | None) -> Figure:
    return Figure(what, unit, ours, {} if bare is None else {"": bare})


def _submit_batch(ours: Ours, count: int) -> None:
    Client(ours.http.port).submit("/api/v1/executions/batch", {"executions": [{"job": "noop"}] * count})


def _submit_singles(port: int, count: int) -> None:
    client = Client(port)
    for _ in range(count):
        client.submit(_SUBMIT, {"parameters": {}})


def _apply_async_rate(bare: Bare, count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        bare.app.noop.apply_async((number,))
    rate = count / (time.perf_counter() - began)
    until(bare.is_done, every=0.05)
    return rate


def _cpu(rig: Ours | Bare) -> dict[str, float]:
    return {name: tree.measure_cpu() for name, tree in rig.usage.items()}
