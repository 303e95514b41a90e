"""Metrics that JobWorker exports, with their descriptions. Names are part of the interface."""

import datetime as dt
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# Otherwise every counter and histogram would have a second series with its start time.
disable_created_metrics()  # type: ignore[no-untyped-call]

#: Upper bounds (s) of the latency buckets: an API response takes milliseconds, a `Prefer: wait` up to 30 s.
_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class SystemStatistics:
    """Statistics of the whole system at one moment, read from SQL."""

    unfinished: Mapping[str, int]
    backlog: Mapping[str, tuple[int, dt.datetime]]
    live_workers: int
    relay_lag: float | None
    beat_age: float | None
    schedules: Mapping[str, int]
    overdue: int
    lateness: float
    log_bytes: int


class Metrics:
    """The metrics of one web process. Counters are its own; gauges describe the whole system."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._scrape_lock = threading.Lock()
        self.submissions = Counter(
            "jobworker_submissions", "Executions accepted over HTTP by this process.", registry=self.registry
        )
        self.requests = Counter(
            "jobworker_http_requests",
            "HTTP requests served by this process.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "jobworker_http_request_seconds",
            "Time from the arrival of an HTTP request to the beginning of its response.",
            ("method", "route"),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.log_bytes = self._make_gauge(
            "jobworker_write_ahead_log_bytes", "Length of SQLite's write-ahead log; 0 on PostgreSQL."
        )
        self.streams = self._make_gauge("jobworker_event_streams", "Open live streams of this process.")
        self.database_up = self._make_gauge(
            "jobworker_database_up", "Whether the database responded to this scrape (1 or 0)."
        )
        self.executions = self._make_gauge(
            "jobworker_executions", "Executions that have not ended, by state (history is not counted).", "state"
        )
        self.ready = self._make_gauge(
            "jobworker_ready_executions", "Executions that are due and not dispatched to Redis yet, by queue.", "queue"
        )
        self.oldest_ready = self._make_gauge(
            "jobworker_ready_oldest_seconds", "Time since the oldest of these became due, by queue.", "queue"
        )
        self.workers = self._make_gauge("jobworker_workers_live", "Workers whose heartbeat is recent.")
        self.relay_lag = self._make_gauge("jobworker_relay_lag_seconds", "Time since the relay's last turn.")
        self.beat_age = self._make_gauge("jobworker_beat_tick_age_seconds", "Time since beat's last tick.")
        self.schedules = self._make_gauge(
            "jobworker_schedules", "Schedules by state: active, or the reason why they start nothing.", "state"
        )
        self.overdue = self._make_gauge(
            "jobworker_schedules_overdue", "Schedules that have been due for more than a minute and were not evaluated."
        )
        self.lateness = self._make_gauge(
            "jobworker_schedules_lateness_seconds",
            "Time since the most overdue of these was due; 0 if no schedule is overdue.",
        )

    def render(self, statistics: SystemStatistics | None, now: dt.datetime) -> bytes:
        """Return all metrics in Prometheus's text format, without `statistics` if the database did not respond."""
        with self._scrape_lock:
            self.database_up.set(statistics is not None)
            if statistics is not None:
                self._set_gauges(statistics, now)
            return generate_latest(self.registry)

    def _set_gauges(self, statistics: SystemStatistics, now: dt.datetime) -> None:
        for state, count in statistics.unfinished.items():
            self.executions.labels(state).set(count)
        # Queues that became empty are missing from the statistics.
        self.ready.clear()
        self.oldest_ready.clear()
        for queue, (count, due_at) in statistics.backlog.items():
            self.ready.labels(queue).set(count)
            self.oldest_ready.labels(queue).set(max(0.0, (now - due_at).total_seconds()))
        self.schedules.clear()
        for state, count in statistics.schedules.items():
            self.schedules.labels(state).set(count)
        self.overdue.set(statistics.overdue)
        self.log_bytes.set(statistics.log_bytes)
        self.lateness.set(statistics.lateness)
        self.workers.set(statistics.live_workers)
        never = float("nan")
        self.relay_lag.set(never if statistics.relay_lag is None else statistics.relay_lag)
        self.beat_age.set(never if statistics.beat_age is None else statistics.beat_age)

    def _make_gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)
