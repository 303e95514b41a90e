"""The scheduler of `celery beat`: it reports each due occurrence of a schedule once, and decides nothing else.

Any number of beats may run. One leads, by RedBeat's lock; the others check every `beat_max_loop_interval` seconds
whether the lock is free, so that a dead leader is replaced within `redbeat_lock_timeout` plus one interval.

After an outage (of beat or Redis) a schedule is reported once, with the oldest missed nominal time, and continues with
the first occurrence after the present: the relay evaluates every occurrence that was due until then.
"""

from jobworker.transport.beat.scheduler import Scheduler

__all__ = ["Scheduler"]
