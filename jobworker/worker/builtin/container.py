"""`container.run`: a command of an image, in a container that docker or podman runs."""

import contextlib
import fnmatch
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from jobworker.declare import Abort, Context, job
from jobworker.domain.jobs.isolation import ContainerIsolation
from jobworker.domain.json import json_values
from jobworker.settings import Settings
from jobworker.worker.celery.task import JobTask
from jobworker.worker.isolation import program_job
from jobworker.worker.isolation.program import Program, ProgramEnd
from jobworker.worker.isolation.program_job import ProgramLog

logger = structlog.get_logger(__name__)

#: Container engines, in the order in which they are looked for.
_ENGINES = ("podman", "docker")

#: Path in the container of the folder for its result, and name of the result file.
_MOUNT_PATH, _RESULT_NAME = "/jobworker", "result.json"

#: Maximum size of a result that is read (bytes); the size that is stored is limited elsewhere.
_MAX_RESULT_SIZE = 64 * 1024 * 1024

#: Exit code of an engine that could not start the container.
_EXIT_NOT_STARTED = 125

#: Exit code of a process that was killed by SIGKILL.
_EXIT_KILLED = 137


class ContainerFailed(Exception):
    """The container's command failed, or its result is invalid."""


class ContainerNotStarted(Exception):
    """The engine could not start the container, for example because the image is missing."""


class EngineMissing(Exception):
    """The worker has neither docker nor podman."""


@job(name="container.run", bind=True)
def container_run(self: Any, context: Context, **parameters: Any) -> Any:
    """Run a container as `isolation` of the job's definition describes.

    The parameters are JSON on its standard input, its output is the log, and exit code 0 is success. The result is the
    content of /jobworker/result.json.
    """
    policy, settings = self.get_job_isolation(), JobTask.get_job_runner().settings
    if not isinstance(policy, ContainerIsolation):
        raise Abort("container.run needs a definition of its own whose isolation has the mode container, and an image")
    check_policy(policy, settings)
    engine = _find_container_engine(settings)
    name = f"jobworker-{context.execution_id}-{context.attempt}"
    log = ProgramLog()
    with _make_temporary_folder(settings.home, name) as folder:
        program = Program(
            _build_command(engine, [*_build_options(policy, context, name, folder), *settings.container_args], policy),
            stdin=json.dumps(parameters).encode(),
            # conmon leaves a file `oom` in its working folder when memory was used up; the container must not reach it.
            folder=folder.parent,
            # The engine starts the container's processes elsewhere, and ends them itself.
            adopt=False,
            cleanup_commands=[[engine, "kill", name], [engine, "rm", "--force", name]],
        )
        end = program_job.run(program, self, log)
        _check_end(end, policy, log.last_line)
        return _read_result(folder / _RESULT_NAME)


def check_policy(policy: ContainerIsolation, settings: Settings) -> None:
    """Raise `Abort` for an image or a network that the settings of this worker do not list."""
    if not settings.container_images:
        raise Abort("containers are off on this worker; JOBWORKER_CONTAINER_IMAGES lists the images that it may run")
    if not any(fnmatch.fnmatchcase(policy.image, pattern) for pattern in settings.container_images):
        raise Abort(f"{policy.image} is not one of the images that JOBWORKER_CONTAINER_IMAGES allows on this worker")
    if policy.network not in ("none", *settings.container_networks):
        raise Abort(
            f"{policy.network} is not one of the networks that JOBWORKER_CONTAINER_NETWORKS allows on this worker"
        )


def _find_container_engine(settings: Settings) -> str:
    engines = _ENGINES if settings.container_engine == "auto" else (settings.container_engine,)
    for name in engines:
        if path := shutil.which(name):
            return path
    raise EngineMissing(f"this worker has no container engine: there is no {' and no '.join(engines)} on its PATH")


def _build_command(engine: str, options: list[str], policy: ContainerIsolation) -> list[str]:
    return [engine, "run", *options, policy.image, *policy.command]


def _build_options(policy: ContainerIsolation, context: Context, name: str, folder: Path) -> list[str]:
    options = [
        "--rm", "--interactive", f"--name={name}", f"--network={policy.network}",
        "--read-only", "--tmpfs=/tmp", f"--volume={folder}:{_MOUNT_PATH}",
        "--cap-drop=all", "--security-opt=no-new-privileges", f"--pids-limit={policy.processes}",
        # The container's output is stored with the execution only.
        "--log-driver=none",
    ]  # fmt: skip
    options += [f"--env={name}={value}" for name, value in program_job.make_variables(context).items()]
    if policy.memory is not None:
        options += [f"--memory={policy.memory}", f"--memory-swap={policy.memory}"]
    if policy.cpus is not None:
        options.append(f"--cpus={policy.cpus:g}")
    return options


@contextlib.contextmanager
def _make_temporary_folder(home: Path, name: str) -> Iterator[Path]:
    """Yield a folder that any user inside of the container can write to, and no other user outside can reach."""
    parent = home.absolute() / "containers"
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = parent / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, onerror=lambda _, path, why: logger.warning("folder_left", path=path, why=str(why[1])))


def _check_end(end: ProgramEnd, policy: ContainerIsolation, last_line: str) -> None:
    detail = f": {last_line}" if last_line else ""
    if end.exit_code == _EXIT_NOT_STARTED:
        raise ContainerNotStarted(f"the container with the image {policy.image} could not be started{detail}")
    if end.exit_code == _EXIT_KILLED and policy.memory is not None:
        raise ContainerFailed(f"the container was killed, most likely for its memory limit of {policy.memory} bytes")
    if end.exit_code != 0:
        raise ContainerFailed(f"{end}{detail}")


def _read_result(path: Path) -> Any:
    """Return the result of the container; None if it left no result. The path may be a link, a pipe, anything."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContainerFailed(f"{_MOUNT_PATH}/{_RESULT_NAME} cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ContainerFailed(f"{_MOUNT_PATH}/{_RESULT_NAME} is not a regular file")
        text = stream.read(_MAX_RESULT_SIZE + 1)
    if len(text) > _MAX_RESULT_SIZE:
        raise ContainerFailed(f"{_MOUNT_PATH}/{_RESULT_NAME} has more than {_MAX_RESULT_SIZE} bytes")
    try:
        return json_values.parse(text)
    except ValueError as error:
        raise ContainerFailed(f"{_MOUNT_PATH}/{_RESULT_NAME} is not JSON: {error}") from None
