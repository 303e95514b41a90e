"""Blockers: reasons why an execution cannot run now."""

from dataclasses import dataclass

from jobworker.domain.executions.blockers import Blocker, detect_missing_worker, find_runnable_tasks


@dataclass(frozen=True)
class FakeWorker:
    """The tasks and queues of a worker."""

    tasks: tuple[str, ...] = ("send",)
    queues: tuple[str, ...] = ("default",)


def get_message(blocker: Blocker | None) -> str:
    """Return the message of a blocker that must not be None."""
    assert blocker is not None
    return blocker.message


def test_matching_worker_means_no_blocker() -> None:
    assert detect_missing_worker("send", "default", [FakeWorker(tasks=()), FakeWorker(queues=()), FakeWorker()]) is None


def test_blocker_without_workers_names_task() -> None:
    assert get_message(detect_missing_worker("send", "default", [])) == "no live worker offers task send"


def test_blocker_names_task_that_no_worker_offers() -> None:
    assert (
        get_message(detect_missing_worker("send", "default", [FakeWorker(tasks=("other",))]))
        == "no live worker offers task send"
    )


def test_blocker_names_queue_that_no_worker_consumes() -> None:
    assert get_message(detect_missing_worker("send", "mail", [FakeWorker()])) == "no live worker consumes queue mail"


def test_blocker_when_task_and_queue_are_on_different_workers() -> None:
    workers = [FakeWorker(tasks=("other",), queues=("mail",)), FakeWorker()]
    assert (
        get_message(detect_missing_worker("send", "mail", workers))
        == "no live worker that consumes queue mail offers task send"
    )


def test_runnable_tasks_are_those_without_blocker() -> None:
    workers = [FakeWorker(("a", "b")), FakeWorker(("c",), ("default", "critical")), FakeWorker(("d",), ("other",))]
    for queue in ("default", "critical", "other", "unheard"):
        free = {task for task in "abcde" if detect_missing_worker(task, queue, workers) is None}
        assert find_runnable_tasks(queue, workers) == free
