"""Context of the transport measures."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.probe import JobProbe
from bench.transport.systems import CeleryTransport, JobWorkerTransport


@dataclass
class TransportContext:
    """Factory of the compared systems, each in its own folder. `environment` is passed to the processes of both."""

    folder: Path
    probe: JobProbe
    environment: Mapping[str, str]
    _folder_numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def make_jobworker(self, **settings: str) -> JobWorkerTransport:
        """Return a JobWorker system, with JOBWORKER_* settings by their short names."""
        environment = {f"JOBWORKER_{name.upper()}": value for name, value in settings.items()}
        return JobWorkerTransport(self._make_folder_path("ours"), {**self.environment, **environment})

    def make_celery(self, visibility: str | None = None) -> CeleryTransport:
        """Return a stock Celery system."""
        return CeleryTransport(self._make_folder_path("stock"), self.environment, visibility)

    def _make_folder_path(self, side: str) -> Path:
        return self.folder / f"{side}-{next(self._folder_numbers)}"
