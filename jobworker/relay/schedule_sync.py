"""The maintenance task that applies the schedules declared in code to SQL, once when this relay begins to lead.

A declaration that must wait, for instance for a worker that announces the job, is retried until it is applied.
"""

from collections.abc import Sequence

import structlog

from jobworker import loading
from jobworker.clock import Clock
from jobworker.declare import declarations
from jobworker.declare.declarations import Declarations
from jobworker.domain.errors import Conflict
from jobworker.loading import BrokenModule
from jobworker.relay.problems import RelayProblems
from jobworker.services.schedules import sync
from jobworker.services.schedules.sync import SyncChange, SyncOutcome
from jobworker.settings import Settings
from jobworker.store.database.database import Database

logger = structlog.get_logger(__name__)

#: Interval between retries of declarations that must wait (s).
RETRY_INTERVAL_SECONDS = 10.0


class ScheduleSynchronizer:
    """Applies the schedules declared in this process's code."""

    def __init__(self, database: Database, clock: Clock, settings: Settings, problems: RelayProblems) -> None:
        self._database = database
        self._clock = clock
        self._problems = problems
        self._broken_modules: Sequence[BrokenModule] = ()
        self._package = settings.schedules
        self._code_version = settings.code_version
        self._declarations: Declarations | None = None
        self._is_done = False
        self._logged_refusals: set[tuple[str, str | None]] = set()

    def synchronize(self) -> None:
        """Apply the outstanding declarations. Raises the database's errors; the task is then retried."""
        for module in self._broken_modules:
            self._problems.report("schedule_module_broken", f"module {module.module}", str(module))
        if self._is_done:
            return
        self._declarations = self._declarations or self._load_declarations()
        if self._declarations is None:
            self._is_done = True
            return
        try:
            changes = sync.apply_declarations(
                self._database, self._clock, self._declarations, f"code:{self._get_version()}"
            )
        except Conflict as error:
            logger.info("schedules_not_synchronised_yet", why=str(error))
            return
        self._is_done = all(change.step is not SyncOutcome.REFUSED for change in changes)
        for change in changes:
            self._log_change(change)

    def _load_declarations(self) -> Declarations | None:
        """Return the declarations of the code; None if they are unknown, and no schedule is to be changed."""
        if not loading.is_package(self._package):
            declared_names = sync.list_declared_names(self._database)
            if declared_names:
                why = (
                    f"there is no package {self._package!r} here; JOBWORKER_SCHEDULES names the one that declares them"
                )
                logger.warning("schedules_left_as_they_are", schedules=declared_names, why=why)
            return None
        declared = declarations.load_declarations(self._package)
        self._broken_modules = declared.broken_modules
        for module in declared.broken_modules:
            subject, why = f"module {module.module}", str(module)
            self._problems.report("schedule_module_broken", subject, why, exception=module.traceback)
        if declared.broken_modules:
            logger.error("schedules_left_as_they_are", why="a module that declares schedules does not import")
            return None
        return declared

    def _get_version(self) -> str:
        return self._code_version or loading.compute_source_digest(self._package)

    def _log_change(self, change: SyncChange) -> None:
        """Log a change, or a refusal once per reason."""
        about = {change.kind: change.name, "place": change.place}
        if change.step is not SyncOutcome.REFUSED:
            logger.info("declaration_applied", **about, what=change.step.value)
            for warning in change.warnings:
                logger.warning("declaration_warning", **about, why=warning)
        elif (change.name, change.reason) not in self._logged_refusals:
            self._logged_refusals.add((change.name, change.reason))
            logger.warning("declaration_not_taken_yet", **about, why=change.reason)
