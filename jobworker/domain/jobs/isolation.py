"""Isolation: where an attempt runs, and its resource limits. The policy `isolation` of a definition.

{"mode": "in_process"}   in a process or thread of the worker, as Celery does; the default
{"mode": "process"}      in a process of its own, which ends with the attempt, together with its child processes
    memory       bytes that each process may use, 64 MiB or more
    cpu          seconds of CPU time that each process may use
    open_files   files that each process may have open, 32 or more
{"mode": "container"}    the job is the command of an image, for the task `container.run`
    image        its name in the container engine
    command      a command instead of the image's own
    memory       bytes that the container may use, 6 MiB or more
    cpus         CPUs that it may use at a time, such as 0.5
    processes    maximum number of processes and threads; 256 if absent
    network      none (the default), or the name of one of the engine's networks
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from jobworker.domain.json.json_reader import JsonObjectReader

#: The task that runs containers.
CONTAINER_TASK = "container.run"

#: Bounds of memory (bytes): Python with JobWorker's code needs 50 MB, and engines refuse less than 6 MiB.
_MIN_PROCESS_MEMORY = 64 * 1024**2
_MIN_CONTAINER_MEMORY = 6 * 1024**2
_MAX_MEMORY = 2**50

_MAX_CPU_SECONDS = 366 * 24 * 3600
_MIN_OPEN_FILES, _MAX_OPEN_FILES = 32, 1_000_000
_MIN_CPUS, _MAX_CPUS = 0.01, 4096.0
_MAX_PROCESSES = 1_000_000
_DEFAULT_PROCESSES = 256
_MAX_ARGUMENT_LENGTH, _MAX_ARGUMENTS = 4096, 256

#: Names of images and networks that engines accept. A name cannot begin like an option.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}\Z")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


class IsolationMode(StrEnum):
    """Place where an attempt runs."""

    IN_PROCESS = "in_process"
    PROCESS = "process"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class InProcessIsolation:
    """Isolation of an attempt that runs in a process or thread of the worker."""

    mode = IsolationMode.IN_PROCESS

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"mode": self.mode.value}


@dataclass(frozen=True, slots=True)
class ProcessIsolation:
    """Isolation of an attempt that runs in a process of its own. None: only the worker's own limit applies."""

    mode = IsolationMode.PROCESS
    memory: int | None = None
    cpu: int | None = None
    open_files: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"mode": self.mode.value, **asdict(self)}


@dataclass(frozen=True, slots=True)
class ContainerIsolation:
    """Isolation of an attempt that runs in a container. An empty `command` is the image's own."""

    mode = IsolationMode.CONTAINER
    image: str
    command: tuple[str, ...] = ()
    memory: int | None = None
    cpus: float | None = None
    processes: int = _DEFAULT_PROCESSES
    network: str = "none"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"mode": self.mode.value, **asdict(self), "command": list(self.command)}


Isolation = InProcessIsolation | ProcessIsolation | ContainerIsolation


def parse(value: object, where: str = "/isolation") -> Isolation:
    """Return the policy in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    read.require("mode")
    mode = read.get_choice("mode", list(IsolationMode), IsolationMode.IN_PROCESS)
    policy = _PARSERS[IsolationMode(mode)](read)
    read.finish()
    return policy


def _parse_in_process(_: JsonObjectReader) -> InProcessIsolation:
    return InProcessIsolation()


def _parse_process(reader: JsonObjectReader) -> ProcessIsolation:
    return ProcessIsolation(
        memory=reader.get_integer("memory", _MIN_PROCESS_MEMORY, _MAX_MEMORY),
        cpu=reader.get_integer("cpu", 1, _MAX_CPU_SECONDS),
        open_files=reader.get_integer("open_files", _MIN_OPEN_FILES, _MAX_OPEN_FILES),
    )


def _parse_container(reader: JsonObjectReader) -> ContainerIsolation:
    reader.require("image")
    return ContainerIsolation(
        image=_get_matching_text(reader, "image", _IMAGE) or "",
        command=reader.get_texts("command", _MAX_ARGUMENT_LENGTH, _MAX_ARGUMENTS),
        memory=reader.get_integer("memory", _MIN_CONTAINER_MEMORY, _MAX_MEMORY),
        cpus=reader.get_number("cpus", _MIN_CPUS, _MAX_CPUS),
        processes=reader.get_integer("processes", 1, _MAX_PROCESSES) or _DEFAULT_PROCESSES,
        network=_get_matching_text(reader, "network", _NETWORK) or "none",
    )


_PARSERS: Mapping[IsolationMode, Callable[[JsonObjectReader], Isolation]] = {
    IsolationMode.IN_PROCESS: _parse_in_process,
    IsolationMode.PROCESS: _parse_process,
    IsolationMode.CONTAINER: _parse_container,
}


def _get_matching_text(reader: JsonObjectReader, name: str, allowed: re.Pattern[str]) -> str | None:
    text = reader.get_text(name, 255)
    if text is not None and not allowed.match(text):
        reader.add_problem(name, "wrong_type", f"{name} must begin with a letter or digit, and contain no spaces")
        return None
    return text
