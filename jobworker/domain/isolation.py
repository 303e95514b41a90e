"""Where a job runs, and what it may use there: `isolation` in a definition.

{"mode": "in_process"}   in a process or thread of the worker, as Celery does; the default
{"mode": "process"}      in a process of its own, which is gone when the attempt is, with all that it started
    memory       bytes that each process may take, 64 MiB or more
    cpu          seconds of CPU time that each process may use
    open_files   files that each process may have open, 32 or more
{"mode": "container"}    the job is the command of an image, for the task `container.run`
    image        its name, as the engine knows it
    command      what to run instead of the image's own command
    memory       bytes that the container may take, 6 MiB or more
    cpus         CPUs that it may use at a time, such as 0.5
    processes    how many processes and threads it may have; 256 if absent
    network      none (the default), or the name of one of the engine's networks
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from jobworker.domain.described import Described

#: The task that runs containers.
CONTAINER_TASK = "container.run"

#: Bounds of memory (bytes): Python with our own code needs 50 MB, and engines refuse less than 6 MiB.
_LEAST_PROCESS_MEMORY = 64 * 1024**2
_LEAST_CONTAINER_MEMORY = 6 * 1024**2
_MOST_MEMORY = 2**50

_MOST_CPU_SECONDS = 366 * 24 * 3600
_LEAST_OPEN_FILES, _MOST_OPEN_FILES = 32, 1_000_000
_LEAST_CPUS, _MOST_CPUS = 0.01, 4096.0
_MOST_PROCESSES = 1_000_000
_USUAL_PROCESSES = 256
_LONGEST_WORD, _MOST_WORDS = 4096, 256

#: What engines take for names of images and networks. None begins like an option.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}\Z")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


class Mode(StrEnum):
    """Where an attempt runs."""

    IN_PROCESS = "in_process"
    PROCESS = "process"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class InProcess:
    """In a process or thread of the worker."""

    mode = Mode.IN_PROCESS

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"mode": self.mode.value}


@dataclass(frozen=True, slots=True)
class Process:
    """In a process of its own. None: no other limit than the worker's own."""

    mode = Mode.PROCESS
    memory: int | None = None
    cpu: int | None = None
    open_files: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"mode": self.mode.value, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Container:
    """In a container. `command` empty: the image's own."""

    mode = Mode.CONTAINER
    image: str
    command: tuple[str, ...] = ()
    memory: int | None = None
    cpus: float | None = None
    processes: int = _USUAL_PROCESSES
    network: str = "none"

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"mode": self.mode.value, **asdict(self), "command": list(self.command)}


Isolation = InProcess | Process | Container


def parse(given: object, where: str = "/isolation") -> Isolation:
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    read.require("mode")
    mode = read.get_choice("mode", list(Mode), Mode.IN_PROCESS)
    made = _READERS[Mode(mode)](read)
    read.finish()
    return made


def _in_process(_: Described) -> InProcess:
    return InProcess()


def _process(read: Described) -> Process:
    return Process(
        memory=read.get_integer("memory", _LEAST_PROCESS_MEMORY, _MOST_MEMORY),
        cpu=read.get_integer("cpu", 1, _MOST_CPU_SECONDS),
        open_files=read.get_integer("open_files", _LEAST_OPEN_FILES, _MOST_OPEN_FILES),
    )


def _container(read: Described) -> Container:
    read.require("image")
    return Container(
        image=_named(read, "image", _IMAGE) or "",
        command=read.get_texts("command", _LONGEST_WORD, _MOST_WORDS),
        memory=read.get_integer("memory", _LEAST_CONTAINER_MEMORY, _MOST_MEMORY),
        cpus=read.get_number("cpus", _LEAST_CPUS, _MOST_CPUS),
        processes=read.get_integer("processes", 1, _MOST_PROCESSES) or _USUAL_PROCESSES,
        network=_named(read, "network", _NETWORK) or "none",
    )


_READERS: Mapping[Mode, Callable[[Described], Isolation]] = {
    Mode.IN_PROCESS: _in_process,
    Mode.PROCESS: _process,
    Mode.CONTAINER: _container,
}


def _named(read: Described, name: str, allowed: re.Pattern[str]) -> str | None:
    found = read.get_text(name, 255)
    if found is not None and not allowed.match(found):
        read.add_problem(name, "wrong_type", f"{name} must begin with a letter or digit, and hold no spaces")
        return None
    return found
