"""What every measure of the transport is handed."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.diary import Diary
from bench.transport.sides import Ours, Stock


@dataclass
class Bench:
    """Makes sides, each in a folder of its own. `environment` goes to the processes of both."""

    folder: Path
    probe: Diary
    environment: Mapping[str, str]
    _folder_numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def make_jobworker(self, **settings: str) -> Ours:
        """JobWorker's side, with JOBWORKER_* settings by their short names."""
        given = {f"JOBWORKER_{name.upper()}": value for name, value in settings.items()}
        return Ours(self._make_folder_path("ours"), {**self.environment, **given})

    def make_celery(self, visibility: str | None = None) -> Stock:
        """Stock Celery's side."""
        return Stock(self._make_folder_path("stock"), self.environment, visibility)

    def _make_folder_path(self, side: str) -> Path:
        return self.folder / f"{side}-{next(self._folder_numbers)}"
