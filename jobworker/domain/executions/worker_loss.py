"""Rules for executions whose attempt was lost with its worker.

A worker that dies may have fetched an attempt that had not begun. Whether the attempt began is unknown, unless the
worker had announced the start. Workers announce the start of an attempt (`announced`) in two cases: after a first loss,
so that a job is blamed only for attempts that began; and if a job must not run twice, so that an attempt that never
began is run.
"""

from collections.abc import Collection

from jobworker.domain.jobs.definition import OnWorkerLost

#: Maximum number of losses, after which a job that ends its worker is not started again. One of the losses may be
#: doubtful: the first attempt is not announced, and a job that kills its worker at once dies before its start is
#: reported.
MAX_LOSSES = 3


def is_announcement_required(policy: OnWorkerLost, lost_attempts: Collection[int] | None) -> bool:
    """Return whether a worker has to announce the start of the next attempt; `lost_attempts` are earlier losses."""
    return policy is OnWorkerLost.FAIL or bool(lost_attempts)


def is_own_process_required(lost_attempts: Collection[int] | None) -> bool:
    """Return whether the next attempt runs in a process of its own, in pools whose jobs share one.

    If this job kills workers, the other jobs are no longer affected; if another job does, this one is safe.
    """
    return len(lost_attempts or ()) >= MAX_LOSSES - 1


def is_poison(lost_attempts: Collection[int], started_attempts: Collection[int]) -> bool:
    """Return whether the job counts as the cause of the losses; `started_attempts` are the lost attempts that began."""
    return len(lost_attempts) >= MAX_LOSSES and len(started_attempts) >= MAX_LOSSES - 1
