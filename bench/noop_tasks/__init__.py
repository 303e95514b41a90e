"""The job that is measured: it does nothing."""

from jobworker import job


@job
def noop(number: int = 0) -> None:
    """Nothing."""
