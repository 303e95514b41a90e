"""What `celery beat` runs: it says *that* a schedule is due, once per occurrence, and decides nothing else.

Any number of beats may run. One leads, by RedBeat's lock; the others look every `beat_max_loop_interval`
seconds whether the lock has become free, so that a leader that died is replaced within
`redbeat_lock_timeout` plus one look.

After a silence (beat, or Redis, was down) a schedule is reported once, with the oldest missed nominal time, and goes on
with the first occurrence after the present: SQL settles everything that was due until then.
"""

from jobworker.transport.beat.scheduler import Scheduler

__all__ = ["Scheduler"]
