"""The fixture `simulate_schedules`: what declared schedules would do, on virtual time.

pytest finds this module by its entry point wherever JobWorker is installed, so it loads next to nothing before a test
wants the fixture; and nobody else imports it, since only tests have pytest.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jobworker.testing.simulator import Simulator


@pytest.fixture
def simulate_schedules(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> "Simulator":
    """What would become of each occurrence: `simulate_schedules("2026-03-28", "2026-03-30")`."""
    # SQLAlchemy and the rest come only with the first test that wants them.
    from jobworker.testing.simulator import Simulator

    monkeypatch.syspath_prepend(str(pytestconfig.rootpath))
    return Simulator()
