"""What `celery -A jobworker flower` reads. Flower's own command-line options come before it."""

from jobworker.settings import Settings
from jobworker.up import addresses, passwords

_settings = Settings.from_environment()
_password_file = _settings.home / "flower.password"
_bind = addresses.parse(_settings.flower_bind, "JOBWORKER_FLOWER_BIND")

address, port = _bind

# Flower can see the arguments of each job and, unless it is read-only, stop workers.
read_only = True
basic_auth = [f"jobworker:{_settings.flower_password or passwords.kept(_password_file)}"]
if not _settings.flower_password:
    print(f"Flower: user jobworker, password in {_password_file}")  # noqa: T201 - logging is not set up yet

# It keeps what it sees in memory; the history is in the database.
max_tasks = 5000
