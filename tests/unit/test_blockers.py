"""Why work cannot run now."""

from dataclasses import dataclass

from jobworker.domain.executions.blockers import Blocker, detect_missing_worker, find_runnable_tasks


@dataclass(frozen=True)
class FakeWorker:
    """What a gate looks at."""

    tasks: tuple[str, ...] = ("send",)
    queues: tuple[str, ...] = ("default",)


def get_message(blocker: Blocker | None) -> str:
    """The words of a reason that there is."""
    assert blocker is not None
    return blocker.message


def test_a_worker_that_fits_is_enough() -> None:
    assert detect_missing_worker("send", "default", [FakeWorker(tasks=()), FakeWorker(queues=()), FakeWorker()]) is None


def test_nobody_there() -> None:
    assert get_message(detect_missing_worker("send", "default", [])) == "no live worker offers task send"


def test_nobody_has_the_task() -> None:
    assert (
        get_message(detect_missing_worker("send", "default", [FakeWorker(tasks=("other",))]))
        == "no live worker offers task send"
    )


def test_nobody_serves_the_queue() -> None:
    assert get_message(detect_missing_worker("send", "mail", [FakeWorker()])) == "no live worker consumes queue mail"


def test_one_has_the_task_and_another_serves_the_queue() -> None:
    workers = [FakeWorker(tasks=("other",), queues=("mail",)), FakeWorker()]
    assert (
        get_message(detect_missing_worker("send", "mail", workers))
        == "no live worker that consumes queue mail offers task send"
    )


def test_runnable_is_what_is_not_blocked() -> None:
    workers = [FakeWorker(("a", "b")), FakeWorker(("c",), ("default", "critical")), FakeWorker(("d",), ("other",))]
    for queue in ("default", "critical", "other", "unheard"):
        free = {task for task in "abcde" if detect_missing_worker(task, queue, workers) is None}
        assert find_runnable_tasks(queue, workers) == free
