"""What becomes of an execution whose attempt was cut short with its worker.

A worker that dies may have had an attempt in hand that it was about to start: nobody knows whether it did, unless
it had said so. Where it matters, workers say that they start before they do (`announced`): after a first loss,
so that a job is blamed only for what it did, and where a job must not run twice, so that one that never began runs.
"""

from collections.abc import Collection

from jobworker.domain.jobs.definition import OnWorkerLost

#: A job that took its worker with it this often is not started again. One of the losses may be doubtful: the first
#: is not announced, and a job that kills its worker at once does not come to say that it has begun.
MAX_LOSSES = 3


def is_announcement_required(policy: OnWorkerLost, lost_attempts: Collection[int] | None) -> bool:
    """Whether a worker has to say that it starts the next attempt before it does; `lost_attempts` are those before."""
    return policy is OnWorkerLost.FAIL or bool(lost_attempts)


def is_own_process_required(lost_attempts: Collection[int] | None) -> bool:
    """Whether the next attempt runs in a process of its own, in pools whose jobs share one.

    If it is this job that kills workers, the others have no part in it any more; if it is another, it is safe itself.
    """
    return len(lost_attempts or ()) >= MAX_LOSSES - 1


def is_poison(lost_attempts: Collection[int], started_attempts: Collection[int]) -> bool:
    """Whether the attempts that were lost, of which `started_attempts` are known to have begun, are held against the job."""
    return len(lost_attempts) >= MAX_LOSSES and len(started_attempts) >= MAX_LOSSES - 1
