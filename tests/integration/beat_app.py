"""A Celery application for `celery -A tests.integration.beat_app beat`, impatient enough for tests."""

from celery import Celery

from jobworker.settings import Settings
from jobworker.transport.celery_settings import celery_settings

#: Seconds between looks, and until a silent leader is replaced.
INTERVAL = 0.2
LOCK = 2

app = Celery("beat_app", set_as_current=False)
app.conf.update(celery_settings(Settings.from_environment()))
app.conf.update(beat_max_loop_interval=INTERVAL, redbeat_lock_timeout=LOCK)
