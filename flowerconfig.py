"""What `celery -A jobworker flower` reads. Flower's own command-line options come before it."""

from jobworker.domain.errors import Misconfigured
from jobworker.settings import Settings
from jobworker.up import addresses, passwords

_settings = Settings.from_environment()
_password_file = _settings.home / "flower.password"
try:
    address, port = addresses.parse(_settings.flower_bind, "JOBWORKER_FLOWER_BIND")
    _password = _settings.flower_password or passwords.kept(_password_file)
except Misconfigured as error:
    raise SystemExit(f"error: {error}") from None

# Flower shows which jobs ran and how they failed and, unless it is read-only, stops workers.
read_only = True
basic_auth = [f"jobworker:{_password}"]
if not _settings.flower_password:
    print(f"Flower: user jobworker, password in {_password_file}")  # noqa: T201 - logging is not set up yet

# It keeps what it sees in memory; the history is in the database.
max_tasks = 5000
