"""End-to-end scenarios. Each function accepts both started systems and returns measurements."""

import statistics
import threading
import time
from dataclasses import dataclass, field

from bench.harness import compute_p99, pace, wait_until
from bench.report import Measurement
from bench.system.systems import CeleryStack, HttpClient, JobWorkerStack

_SUBMIT_PATH = "/api/v1/jobs/noop/executions"


def measure_drain(ours: JobWorkerStack, bare: CeleryStack, count: int) -> list[Measurement]:
    """Measure no-ops from all accepted to all final in SQL, against all queued to all acknowledged."""
    before, cpu = ours.count_final(), _measure_cpu(ours)
    _submit_batch(ours, count)
    began = time.perf_counter()
    wait_until(lambda: ours.count_final() >= before + count, every=0.05)
    rate = count / (time.perf_counter() - began)
    used = {name: (value - cpu[name]) / count * 1e6 for name, value in _measure_cpu(ours).items()}

    bare_rate, bare_used = _measure_bare_drain(bare, count)
    rows = [_make_measurement("drain of no-ops, recorded as final", "jobs/s", rate, bare_rate)]
    rows += [
        _make_measurement(f"CPU per job, {name}", "µs", value, bare_used.get(name)) for name, value in used.items()
    ]
    return rows


def _measure_bare_drain(bare: CeleryStack, count: int) -> tuple[float, dict[str, float]]:
    with bare.app.app.connection_for_write() as connection:
        producer = connection.Producer()
        for number in range(count):
            bare.app.noop.apply_async((number,), queue="staged", producer=producer)
    cpu = _measure_cpu(bare)
    # All messages enter the worker's queue at once, so that publishing is not measured.
    bare.broker.rename("staged", "bare")
    began = time.perf_counter()
    wait_until(bare.is_done, every=0.02)
    rate = count / (time.perf_counter() - began)
    return rate, {name: (value - cpu[name]) / count * 1e6 for name, value in _measure_cpu(bare).items()}


def measure_submissions(ours: JobWorkerStack, bare: CeleryStack, count: int) -> list[Measurement]:
    """Measure single submissions by eight HTTP clients against `apply_async` in a loop, and CPU until all are final."""
    before, cpu = ours.count_final(), _measure_cpu(ours)
    began = time.perf_counter()
    threads = [threading.Thread(target=_submit_singles, args=(ours.http.port, count // 8)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = count // 8 * 8
    rate = sent / (time.perf_counter() - began)
    wait_until(lambda: ours.count_final() >= before + sent, every=0.05)
    used = {name: (value - cpu[name]) / sent * 1e6 for name, value in _measure_cpu(ours).items()}
    bare_rate = _measure_apply_async_rate(bare, count)
    rows = [_make_measurement("single submissions over HTTP (stock: apply_async)", "1/s", rate, bare_rate)]
    return rows + [
        _make_measurement(f"CPU per single submission, {name}", "µs", value, None) for name, value in used.items()
    ]


def measure_bulk(ours: JobWorkerStack, bare: CeleryStack, count: int) -> list[Measurement]:
    """Measure one request with `count` executions against as many calls of `apply_async`."""
    began = time.perf_counter()
    _submit_batch(ours, count)
    rate = count / (time.perf_counter() - began)
    bare_rate = _measure_apply_async_rate(bare, count)
    return [_make_measurement("bulk submissions in one request (stock: apply_async)", "1/s", rate, bare_rate)]


def measure_latency(ours: JobWorkerStack, bare: CeleryStack, per_second: int, seconds: int) -> list[Measurement]:
    """Measure accepted → started at a steady rate, against published → body."""
    final_before = ours.count_final()
    for _ in pace(per_second, seconds):
        ours.http.submit(_SUBMIT_PATH, {"parameters": {}})
    wait_until(lambda: ours.count_final() >= final_before + per_second * seconds)
    mine = sorted(ours.query_latencies()[-per_second * seconds :])
    bare.broker.delete("bare:latencies")
    for _ in pace(per_second, seconds):
        bare.app.stamp.apply_async((time.time(),))
    wait_until(lambda: bare.broker.llen("bare:latencies") >= per_second * seconds)
    theirs = sorted(float(value) for value in bare.broker.lrange("bare:latencies", 0, -1))
    label = f"accepted → started at {per_second}/s"
    return [
        _make_measurement(f"{label}, p50", "ms", statistics.median(mine) * 1e3, statistics.median(theirs) * 1e3),
        _make_measurement(f"{label}, p99", "ms", compute_p99(mine) * 1e3, compute_p99(theirs) * 1e3),
    ]


def measure_flood(ours: JobWorkerStack) -> list[Measurement]:
    """Measure submission → final in SQL: alone, while another job prints 1 GiB, and while another job fills its log."""
    quiet = _FloodResult("alone", _measure_round_trips(ours, seconds=10))
    gibibyte = _measure_beside_flood(ours, "while another job prints 1 GiB", lines=128 * 1024, length=8 * 1024)
    short = _measure_beside_flood(ours, "while another job writes short lines", lines=45_000, length=200)
    rows = [
        _make_measurement(f"submitted → Succeeded, {seen.condition}, {name}", "ms", value * 1e3, None)
        for seen in (quiet, gibibyte, short)
        for name, value in (
            ("p50", statistics.median(seen.round_trips)),
            ("p99", compute_p99(sorted(seen.round_trips))),
        )
    ]
    grown = gibibyte.memory_growth.items()
    return rows + [
        _make_measurement(f"memory (PSS) that 1 GiB of output takes, {name}", "MiB", size, None) for name, size in grown
    ]


@dataclass(frozen=True, slots=True)
class _FloodResult:
    """Round trips (s), and memory growth of each process meanwhile (MiB)."""

    condition: str
    round_trips: list[float]
    memory_growth: dict[str, float] = field(default_factory=dict)


def _measure_beside_flood(ours: JobWorkerStack, label: str, **parameters: int) -> _FloodResult:
    before = {name: tree.measure_pss() for name, tree in ours.usage.items()}
    seen = _FloodResult(label, [], dict.fromkeys(before, 0.0))
    ours.http.submit("/api/v1/jobs/floods/executions", {"parameters": parameters})
    wait_until(lambda: ours.broker.xlen("jw:logs"))
    unfinished = "/api/v1/executions?job=floods&state=Running&limit=1"
    while not seen.round_trips or ours.http.request("GET", unfinished)[1]["items"]:
        seen.round_trips.extend(_measure_round_trips(ours, seconds=1))
        for name, tree in ours.usage.items():
            seen.memory_growth[name] = max(seen.memory_growth[name], tree.measure_pss() - before[name])
    return seen


def _measure_round_trips(ours: JobWorkerStack, seconds: int) -> list[float]:
    seconds_taken = []
    for _ in pace(5, seconds):
        began = time.perf_counter()
        ours.http.submit_and_wait(_SUBMIT_PATH, {"parameters": {}})
        seconds_taken.append(time.perf_counter() - began)
    return seconds_taken


def measure_memory(ours: JobWorkerStack, bare: CeleryStack) -> list[Measurement]:
    """Measure the proportional set size of each process with its children."""
    return [
        _make_measurement(
            f"memory (PSS), {name}",
            "MiB",
            tree.measure_pss(),
            bare.usage[name].measure_pss() if name in bare.usage else None,
        )
        for name, tree in ours.usage.items()
    ]


def _make_measurement(name: str, unit: str, ours: float, bare: float | None) -> Measurement:
    return Measurement(name, unit, ours, {} if bare is None else {"": bare})


def _submit_batch(ours: JobWorkerStack, count: int) -> None:
    HttpClient(ours.http.port).submit("/api/v1/executions/batch", {"executions": [{"job": "noop"}] * count})


def _submit_singles(port: int, count: int) -> None:
    client = HttpClient(port)
    for _ in range(count):
        client.submit(_SUBMIT_PATH, {"parameters": {}})


def _measure_apply_async_rate(bare: CeleryStack, count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        bare.app.noop.apply_async((number,))
    rate = count / (time.perf_counter() - began)
    wait_until(bare.is_done, every=0.05)
    return rate


def _measure_cpu(rig: JobWorkerStack | CeleryStack) -> dict[str, float]:
    return {name: tree.measure_cpu() for name, tree in rig.usage.items()}
