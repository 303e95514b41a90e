"""`container.run` with a real container engine. Images are built here; without an engine the tests are skipped."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.services.jobs import jobs
from jobworker.store.executions.executions import ExecutionRow
from tests.engine import Engine
from tests.integration.isolation.conftest import get_error, list_log_lines, wait_for_log_line
from tests.polling import wait_until
from tests.servers import ServerProcess

MIB = 1024**2
CONTAINER_ENGINE = next((path for path in map(shutil.which, ("podman", "docker")) if path), None)
BUSYBOX = shutil.which("busybox")

#: Options for Podman as root in a virtual machine without systemd; harmless elsewhere.
ARGUMENTS = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
if CONTAINER_ENGINE and CONTAINER_ENGINE.endswith("podman") and shutil.which("runc"):
    ARGUMENTS += " --runtime runc"

SETTINGS = {
    "JOBWORKER_CONTAINER_ARGS": ARGUMENTS,
    "JOBWORKER_CONTAINER_IMAGES": "*jobworker-test-* localhost/there-is-no:*",
}

#: Commands of busybox that the image contains.
_COMMANDS = ("sh", "cat", "echo", "sleep", "id", "ls", "touch", "dd", "env", "ip", "mount")


def run_container_engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert CONTAINER_ENGINE is not None
    return subprocess.run([CONTAINER_ENGINE, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Image that contains nothing but busybox."""
    missing = "a container engine" if CONTAINER_ENGINE is None else None if BUSYBOX else "busybox"
    if missing:
        why = f"{missing} is not installed (Debian: apt-get install podman runc busybox-static)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    _pack_image(archive)
    name = f"jobworker-test-{os.getpid()}"
    import_result = run_container_engine("import", str(archive), f"{name}:1")
    assert import_result.returncode == 0, import_result.stderr
    tried = run_container_engine("run", "--rm", "--network=none", *ARGUMENTS.split(), f"{name}:1", "/bin/echo", "works")
    if tried.returncode != 0:
        pytest.skip(f"the container engine does not work here: {tried.stderr.strip()[-300:]}")
    yield f"localhost/{name}:1" if CONTAINER_ENGINE and CONTAINER_ENGINE.endswith("podman") else f"{name}:1"
    run_container_engine("rmi", "--force", f"{name}:1")


def _pack_image(archive: Path) -> None:
    assert BUSYBOX is not None
    with tarfile.open(archive, "w") as tar:
        for folder in ("bin", "tmp", "jobworker", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        program = tarfile.TarInfo("bin/busybox")
        content = Path(BUSYBOX).read_bytes()
        program.size, program.mode = len(content), 0o755
        tar.addfile(program, io.BytesIO(content))
        for command in _COMMANDS:
            link = tarfile.TarInfo(f"bin/{command}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)


@pytest.fixture
def define(engine: Engine, image: str) -> Any:
    """Function that defines a container job that runs a script, and submits it once."""
    names = iter(f"container-{number}" for number in range(100))

    def submit(script: str, parameters: dict[str, Any] | None = None, **fields: Any) -> str:
        limits = {name: fields.pop(name) for name in ("time_limit", "soft_time_limit") if name in fields}
        described = {"mode": "container", "image": image, "command": ["/bin/sh", "-c", script], **fields}
        name = f"{next(names)}-{os.urandom(4).hex()}"
        isolation = {**policies.DEFAULTS, "isolation": described, "retry": {"max_attempts": 1}}
        definition = JobDefinition(name, "container.run", policies=isolation, **limits)
        wait_until(lambda: _list_known_containers(engine), what="container.run")
        jobs.create(engine.database, SystemClock(), definition, "test")
        return engine.submit_one(name, parameters=parameters or {})

    return submit


def _list_known_containers(engine: Engine) -> bool:
    return any(task.name == "container.run" for task in jobs.list_tasks(engine.database, 200).items)


def list_container_names() -> str:
    return run_container_engine("ps", "--all", "--format", "{{.Names}}").stdout


def expect_failure(engine: Engine, execution: str) -> tuple[str, str, ExecutionRow]:
    row = engine.wait_until_final(execution)
    assert row.state is ExecutionState.FAILED
    return get_error(row)["type"], get_error(row)["message"], row


def test_container_runs_the_job(engine: Engine, define: Any) -> None:
    script = """
    cat > /tmp/given
    echo printed; echo complained >&2
    env
    (touch /bin/more || echo the root cannot be written to) 2>&1
    ip addr | cat
    echo "{\\"given\\": $(cat /tmp/given), \\"user\\": $(id -u)}" > /jobworker/result.json
    """
    execution = define(script, parameters={"any": ["thing", 1]}, memory=64 * MIB)
    row = engine.wait_until_final(execution)
    assert row.state is ExecutionState.SUCCEEDED, (row.error, row.reason)
    assert row.result == {"given": {"any": ["thing", 1]}, "user": 0}
    assert wait_for_log_line(engine, execution, "printed").logger == "stdout"
    assert wait_for_log_line(engine, execution, "complained").logger == "stderr"
    wait_for_log_line(engine, execution, f"JOBWORKER_EXECUTION={execution}")
    wait_for_log_line(engine, execution, "JOBWORKER_ATTEMPT=1")
    wait_for_log_line(engine, execution, "the root cannot be written to")
    everything = "\n".join(line.message for line in list_log_lines(engine, execution))
    assert "REDIS" not in everything
    assert "eth0" not in everything
    assert not list((engine.folder / "home" / "containers").iterdir())
    assert execution not in list_container_names()


def test_failures_are_recorded_with_their_reason(engine: Engine, define: Any) -> None:
    executions = {
        "code": define("echo last words; exit 7"),
        "no image": define("true", image="localhost/there-is-no:such-image"),
        "no program": define("true", command=["/bin/nothing"]),
        "no json": define("echo rubbish > /jobworker/result.json"),
        "no file": define("busybox mkfifo /jobworker/result.json || /bin/busybox mkfifo /jobworker/result.json"),
        "memory": define("dd if=/dev/zero of=/tmp/much bs=1M count=200", memory=32 * MIB),
        "undefined": engine.submit_one("container.run", retry={"max_attempts": 1}),
    }
    ends = {name: expect_failure(engine, execution)[:2] for name, execution in executions.items()}
    assert ends["code"] == ("ContainerFailed", "it ended with exit code 7: last words")
    assert ends["no image"][0] == "ContainerNotStarted"
    assert "there-is-no:such-image" in ends["no image"][1]
    assert ends["no program"][0] in ("ContainerNotStarted", "ContainerFailed")
    assert "/bin/nothing" in ends["no program"][1]
    assert ends["no json"][0] == "ContainerFailed"
    assert "is not JSON" in ends["no json"][1]
    assert ends["no file"] == ("ContainerFailed", "/jobworker/result.json is not a regular file")
    assert ends["memory"][0] == "ContainerFailed"
    assert not Path("oom").exists(), "conmon writes it to its working folder"
    assert ends["undefined"][0] == "Abort"
    assert "mode container" in ends["undefined"][1]


def test_container_ends_at_its_time_limit_and_on_cancellation(engine: Engine, define: Any) -> None:
    stubborn = "trap '' TERM; echo begun; while :; do sleep 1; done"
    late = define(stubborn, time_limit=3)
    unwanted = define(stubborn)
    wait_for_log_line(engine, unwanted, "begun")
    engine.cancel(unwanted)
    row = engine.wait_until_final(late)
    assert (row.state, row.reason) == (ExecutionState.TIMED_OUT, "hard time limit exceeded")
    row = engine.wait_until_final(unwanted)
    assert row.state is ExecutionState.CANCELLED
    names = list_container_names()
    assert not [execution for execution in (late, unwanted) if execution in names]


def test_container_ends_with_its_worker(define: Any, running_engine: tuple[Engine, ServerProcess]) -> None:
    engine, worker = running_engine
    execution = define("trap '' TERM; echo begun; while :; do sleep 1; done")
    wait_for_log_line(engine, execution, "begun")
    assert execution in list_container_names()
    worker.terminate()
    wait_until(lambda: execution not in list_container_names(), every=0.3, what="the end of the container")
    engine.start_worker("--pool", "threads", **SETTINGS)  # Later tests need a worker.
