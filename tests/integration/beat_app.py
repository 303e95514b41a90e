"""Celery application for `celery -A tests.integration.beat_app beat` with short intervals for tests."""

from celery import Celery

from jobworker.settings import Settings
from jobworker.transport.celery_settings import build_celery_settings

#: Interval of ticks, and timeout after which a silent leader is replaced (s).
TICK_SECONDS = 0.2
LEADER_LOCK_SECONDS = 2

app = Celery("beat_app", set_as_current=False)
app.conf.update(build_celery_settings(Settings.from_environment()))
app.conf.update(beat_max_loop_interval=TICK_SECONDS, redbeat_lock_timeout=LEADER_LOCK_SECONDS)
