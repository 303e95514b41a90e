"""Why work cannot run now."""

from dataclasses import dataclass

from jobworker.domain.gates import Reason, blocked, runnable


@dataclass(frozen=True)
class Worker:
    """What a gate looks at."""

    tasks: tuple[str, ...] = ("send",)
    queues: tuple[str, ...] = ("default",)


def told(reason: Reason | None) -> str:
    """The words of a reason that there is."""
    assert reason is not None
    return reason.message


def test_a_worker_that_fits_is_enough() -> None:
    assert blocked("send", "default", [Worker(tasks=()), Worker(queues=()), Worker()]) is None


def test_nobody_there() -> None:
    assert told(blocked("send", "default", [])) == "no live worker offers task send"


def test_nobody_has_the_task() -> None:
    assert told(blocked("send", "default", [Worker(tasks=("other",))])) == "no live worker offers task send"


def test_nobody_serves_the_queue() -> None:
    assert told(blocked("send", "mail", [Worker()])) == "no live worker consumes queue mail"


def test_one_has_the_task_and_another_serves_the_queue() -> None:
    workers = [Worker(tasks=("other",), queues=("mail",)), Worker()]
    assert told(blocked("send", "mail", workers)) == "no live worker that consumes queue mail offers task send"


def test_runnable_is_what_is_not_blocked() -> None:
    workers = [Worker(("a", "b")), Worker(("c",), ("default", "critical")), Worker(("d",), ("other",))]
    for queue in ("default", "critical", "other", "unheard"):
        free = {task for task in "abcde" if blocked(task, queue, workers) is None}
        assert runnable(queue, workers) == free
