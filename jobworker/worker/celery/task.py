"""The class of every task: Celery's, except that attempts are reported and retries are durable."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, Task
from celery.exceptions import Retry

from jobworker.clock import SystemClock
from jobworker.declare import Abort, Job, JobOptions, classes, names
from jobworker.domain.jobs import circuit_breaker, isolation
from jobworker.domain.jobs.circuit_breaker import CircuitBreakerPolicy
from jobworker.domain.jobs.isolation import Isolation
from jobworker.loading import BrokenModule
from jobworker.worker.attempt import direct_calls, hooks, retries
from jobworker.worker.attempt.delivery import EXECUTION_HEADER, TOKEN_HEADER, Delivery
from jobworker.worker.attempt.runner import AttemptRunner

_clock = SystemClock()


class JobTask(Task):
    """A Celery task that JobWorker runs. Without a message from the relay it behaves as Celery's own."""

    Request = "jobworker.worker.celery.request:JobRequest"
    abstract = True

    #: Set once per worker, before it forks.
    runner: AttemptRunner | None = None
    job_options = JobOptions()
    job_class: type[Job] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one attempt, or only the function when it is called directly."""
        body = super().__call__  # Possibly the method of a user's base class.
        delivery = None if self.request.called_directly else self.get_job_delivery()
        if delivery is None or JobTask.runner is None:
            return body(*args, **kwargs)
        after = functools.partial(hooks.run_hooks, self.job_class) if self.job_class else None
        return JobTask.runner.run_attempt(
            delivery, self.wrap_job_attempt(delivery, lambda: body(*args, **kwargs)), kwargs, after
        )

    def wrap_job_attempt(self, delivery: Delivery, body: Callable[[], Any]) -> Callable[[], Any]:
        """Return `body` with its failures replaced by the retry decision: another attempt, or none."""

        def attempt() -> Any:
            classes.clear_current_job()
            try:
                return body()
            except Exception as error:
                decision = retries.decide_retry(self, delivery, error)
                if decision is error:
                    raise
                raise decision from decision.__cause__

        return attempt

    @staticmethod
    def get_job_runner() -> AttemptRunner:
        """Return the runner of this worker; raises `LookupError` outside of a worker."""
        if JobTask.runner is None:
            raise LookupError("this works only in a worker of JobWorker")
        return JobTask.runner

    def get_job_isolation(self) -> Isolation:
        """Return the isolation of the current attempt."""
        delivery = self.get_job_delivery()
        described = delivery.policies.get("isolation") if delivery else None
        return isolation.parse(described) if described else isolation.InProcessIsolation()

    def get_job_circuit(self) -> CircuitBreakerPolicy:
        """Return the circuit breaker policy of the current attempt."""
        delivery = self.get_job_delivery()
        described = delivery.policies.get("circuit") if delivery else None
        return circuit_breaker.parse(described) if described else CircuitBreakerPolicy()

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Exception | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Request another attempt. Unlike Celery's method, publishes nothing: the relay starts the attempt when due.

        `autoretry_for` calls this method, too. Raises `exc` (or `MaxRetriesExceededError`) when no attempt is left, and
        an `exc` that forbids another attempt.
        """
        delivery = self.get_job_delivery()
        if delivery is None:
            return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        self._check_parameters_unchanged(args, kwargs)
        if isinstance(exc, Abort):
            raise exc
        limit = retries.get_max_retries(self, delivery, max_retries)
        if retries.is_exhausted(self, limit):
            raise exc or retries.make_exhausted_error(limit)
        when = countdown if eta is None else eta
        wait = retries.compute_default_delay(self, delivery) if when is None else retries.to_seconds(when, self)
        request = Retry(exc=exc, when=wait)
        if throw:
            raise request
        return request

    def get_job_delivery(self) -> Delivery | None:
        """Return the attempt that this thread runs; None if the message does not belong to one."""
        request = self.request
        header = getattr(request, EXECUTION_HEADER, None)
        # The header is absent from messages that JobWorker did not create.
        return Delivery.from_header(header, getattr(request, TOKEN_HEADER, None)) if header else None

    def _check_parameters_unchanged(self, args: Any, kwargs: Any) -> None:
        changed_args = args is not None and list(args) != list(self.request.args or ())
        changed_kwargs = kwargs is not None and kwargs != self.request.kwargs
        if changed_args or changed_kwargs:
            raise ValueError("a retry keeps its parameters; submit another execution to run with others")


class JobApp(Celery):
    """A Celery app in which every task is a `JobTask`, even with a base class chosen by the user.

    Otherwise such a task would run unreported.
    """

    task_cls = JobTask

    #: Users' modules that failed to import in this process.
    broken_modules: Sequence[BrokenModule] = ()

    def _task_from_fun(
        self, fun: Callable[..., Any], name: str | None = None, base: type | None = None, **options: Any
    ) -> Any:
        names.reserve(name or self.gen_task_name(fun.__name__, fun.__module__), fun)
        task = super()._task_from_fun(fun, name, base and _derive_job_class(base), **options)
        retries.override_autoretry(task, task.get_job_delivery)
        return task

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish a direct call. Every call of a task passes here, and thus appears in the history."""
        own = options.get("task_type") or self.tasks.get(name)
        routed = bool(self.conf.task_routes)
        added = direct_calls.build_options(_clock, name, args, kwargs, options, own, self.current_worker_task, routed)
        result = super().send_task(name, args, kwargs, **{**options, **added})
        # Workers keep no results for Celery, but the history has those of direct calls.
        result.ignored = EXECUTION_HEADER not in added.get("headers", {})
        return result

    def register_task(self, task: Any, **options: Any) -> Any:
        """Add a task given as a class, or as an object of one."""
        added: Any = task() if inspect.isclass(task) else task
        if added.name:
            names.reserve(added.name, type(added))
        added.__class__ = _derive_job_class(type(added))
        registered = super().register_task(added, **options)
        retries.override_autoretry(registered, registered.get_job_delivery)
        return registered


def _derive_job_class(base: type) -> type:
    return base if issubclass(base, JobTask) else type(base.__name__, (JobTask, base), {"abstract": True})
