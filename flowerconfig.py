"""The settings of `celery -A jobworker flower`. Flower's own command-line options override them."""

from logging import INFO, LogRecord, getLogger

from jobworker.domain.errors import ConfigurationError
from jobworker.settings import Settings
from jobworker.up import addresses, passwords

_settings = Settings.from_environment()
_password_file = _settings.home / "flower.password"
try:
    address, port = addresses.parse(_settings.flower_bind, "JOBWORKER_FLOWER_BIND")
    _password = _settings.flower_password or passwords.get_or_create(_password_file)
except ConfigurationError as error:
    raise SystemExit(f"error: {error}") from None

# Flower shows which jobs ran and how they failed and, unless it is read-only, stops workers.
read_only = True
basic_auth = [f"jobworker:{_password}"]
if not _settings.flower_password:
    print(f"Flower: user jobworker, password in {_password_file}")  # noqa: T201 - logging is not set up yet


def _calm(record: LogRecord) -> bool:
    """Lower the level of Flower's warnings: it queries workers when it starts, before they can reply."""
    record.levelno, record.levelname = INFO, "INFO"
    return True


getLogger("flower.inspector").addFilter(_calm)

# Flower keeps recent tasks in memory; the history is in the database.
max_tasks = 5000
