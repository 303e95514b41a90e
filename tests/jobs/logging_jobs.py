"""Jobs that log, print and report progress in every way."""

import asyncio
import io
import logging
import logging.config
import sys
import threading
from typing import Any

from jobworker import Context, current, job
from tests.jobs import log_activity, wait_for_file

_library_logger = logging.getLogger("a.library")


@job
def flood_output(lines: int, length: int) -> int:
    """Print lines as fast as possible."""
    log_activity("start")
    for number in range(lines):
        print(f"{number:08d} " + "x" * (length - 9))
    return lines


@job(autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0, max_retries=2)
def flood_log_in_attempts(context: Context, lines: int, length: int) -> None:
    """Log many lines in each of three attempts."""
    for number in range(lines):
        context.log.info("%s", f"{context.attempt} {number:06d} " + "x" * (length - 9))
    raise ValueError("again")


@job
def report_each_step(context: Context, until: int) -> None:
    """Report progress at each step."""
    for number in range(until):
        context.progress(number + 1, until, f"step {number + 1}")


@job
def report_invalid_progress(context: Context) -> str:
    """Report invalid progress, and then valid progress."""
    for nonsense in (float("nan"), "half", None, object(), -1):
        context.progress(nonsense)  # type: ignore[arg-type]
    context.progress(1, float("inf"))
    context.progress(2, 4, "good")
    return "unharmed"


@job(autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0, max_retries=3)
def process_page(context: Context, pages: int) -> dict[str, Any]:
    """Process one page in each attempt, and store its number in the metadata."""
    page = context.metadata.get("page", 0) + 1
    context.metadata["page"] = page
    context.metadata[f"page {page}"] = {"attempt": context.attempt}
    if page > 1:
        del context.metadata[f"page {page - 1}"]
    if page < pages:
        raise ValueError("more to come")
    return dict(context.metadata)


@job
def exceed_metadata_limit(context: Context) -> list[str]:
    """Store values that metadata refuses, and return the errors."""
    refused = []
    for value in (object(), float("nan"), "x" * 20_000):
        try:
            context.metadata["bad"] = value
        except ValueError as error:
            refused.append(str(error))
    context.metadata["good"] = 1
    return refused


@job
def wait_with_metadata(context: Context, path: str) -> None:
    """Report metadata and progress, and then run until a file appears."""
    context.metadata["phase"] = "waiting"
    context.progress(1, 2, "waiting")
    context.log.info("waiting for %s", path)
    wait_for_file(path)


@job
def log_from_threads(name: str) -> None:
    """Log from threads, with and without the job's context."""
    thread = threading.Thread(target=_library_logger.info, args=("%s: plain thread", name))
    thread.start()
    thread.join()
    asyncio.run(_log_from_thread(name))


async def _log_from_thread(name: str) -> None:
    _library_logger.info("%s: coroutine", name)
    await asyncio.to_thread(lambda: _library_logger.info("%s: thread with context %s", name, current().job))


@job
def log_unformattable_record() -> None:
    """Log with arguments that do not match the format."""
    _library_logger.warning("%d things", "many")


@job
def log_below_level() -> None:
    """Log at every level."""
    for level in ("debug", "info", "warning"):
        getattr(_library_logger, level)("a %s", level)


@job
def return_size(size: int) -> str:
    """Return `size` bytes of JSON, plus two for the quotes."""
    return "x" * size


@job
def print_parts() -> None:
    """Print lines piece by piece, and bytes."""
    print("user", 5, "logged in")
    print("no end", end="")
    print(" of a line", end="")
    print("problem", file=sys.stderr)
    print()
    sys.stdout.buffer.write("bytes ü \n".encode() + b"\xff\n")
    print("two\nlines")
    sys.stdout.write("the last")


@job
def replace_streams(how: str) -> None:
    """Change logging and the standard streams as programs with a process of their own do."""
    if how == "force":
        logging.basicConfig(force=True, level="ERROR")
    elif how == "dictConfig":
        logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL", "handlers": []}})
    elif how == "disable":
        logging.disable(logging.CRITICAL)
    elif how == "replace":
        sys.stdout = sys.stderr = io.StringIO()
    elif how == "close":
        sys.stdout.close()
    elif how == "factory":
        logging.setLogRecordFactory(None)  # type: ignore[arg-type]
    elif how == "none":
        sys.stdout = None
    else:
        logging.getLogger().handlers.clear()
