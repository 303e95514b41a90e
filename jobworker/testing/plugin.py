"""The fixture `simulate_schedules`: runs declared schedules on virtual time.

pytest loads this module by its entry point wherever JobWorker is installed, so it imports very little before a test
requests the fixture. No other module imports it, because only tests have pytest.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jobworker.testing.simulator import Simulator


@pytest.fixture
def simulate_schedules(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> "Simulator":
    """A simulator that returns the outcome of each occurrence: `simulate_schedules("2026-03-28", "2026-03-30")`."""
    # SQLAlchemy and the rest are imported only when a test requests the fixture.
    from jobworker.testing.simulator import Simulator

    monkeypatch.syspath_prepend(str(pytestconfig.rootpath))
    return Simulator()
