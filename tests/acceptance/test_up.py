"""The whole system as a new user starts it: `jobworker up` with the real Procfile, on free ports."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.polling import wait_until
from tests.up_process import ROOT, UpProcess, list_group_members

pytestmark = pytest.mark.timeout(300)

#: Maximum number of output lines before the system is ready.
_MAX_LINES = 25

_EXAMPLES = ("cleanup_inactive_entities", "generate_entity_statistics", "process_data_export")


class UpSystem(UpProcess):
    """A running system, its API and its command line."""

    @property
    def api(self) -> str:
        """The URL of the system's HTTP server."""
        return f"http://{self.environment['JOBWORKER_BIND']}"

    @property
    def flower(self) -> str:
        """The URL of the system's Flower."""
        return f"http://{self.environment['JOBWORKER_FLOWER_BIND']}"

    def get_json(self, url: str, credentials: str = "") -> tuple[int, Any]:
        """Return the status and the content of a response, parsed if it is JSON."""
        request = urllib.request.Request(url)
        if credentials:
            request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
        return _open_url(request)

    def submit_job(self, job: str, **body: Any) -> dict[str, Any]:
        """Submit a job over HTTP and return the accepted execution."""
        url = f"{self.api}/api/v1/jobs/{job}/executions"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        status, execution = _open_url(request)
        assert status == 202, execution
        assert isinstance(execution, dict)
        return execution

    def wait_until_succeeded(self, execution: str) -> dict[str, Any]:
        """Wait until the execution has succeeded, and return it."""

        def ended() -> dict[str, Any]:
            _, body = self.get_json(f"{self.api}/api/v1/executions/{execution}")
            return body if isinstance(body, dict) and body.get("finished_at") else {}

        ended_execution = wait_until(ended, within=90, every=0.2, what=f"the end of {execution}")
        assert ended_execution["state"] == "Succeeded", ended_execution
        return ended_execution

    def run_command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `jobworker …` as in another terminal."""
        return self.run_python("-m", "jobworker.cli", *arguments)

    def run_python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python as in another terminal, in the folder of the project."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def read_log(self, name: str) -> str:
        """Return the log of a process."""
        return (self.home / "logs" / f"{name}.log").read_text()

    @property
    def startup_output(self) -> list[str]:
        """The lines of output before the system was ready."""
        return self.output.partition("JobWorker is ready.")[0].splitlines()


def _open_url(request: urllib.request.Request) -> tuple[int, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as response:
            return response.status, _parse_json(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _parse_json(error.read())


def _parse_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpSystem]:
    """The system shared by the tests that break nothing."""
    running = UpSystem(tmp_path_factory.mktemp("system"), "--demo")
    running.wait_for_output("JobWorker is ready.", within=120)
    yield running
    running.kill()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[UpSystem]:
    """A system for this test alone."""
    running = UpSystem(tmp_path)
    running.wait_for_output("JobWorker is ready.", within=120)
    yield running
    running.kill()


def test_demo_runs_the_three_examples(system: UpSystem) -> None:
    for job in _EXAMPLES:
        system.wait_for_output(f"{job}: Succeeded")

    _, listed = system.get_json(f"{system.api}/api/v1/executions?state=Succeeded")
    assert {item["job"] for item in listed["items"]} >= set(_EXAMPLES)
    export = next(item for item in listed["items"] if item["job"] == "process_data_export")
    assert Path(export["result"]["file"]).read_text().splitlines()


def test_startup_prints_few_lines_and_logs_everything(system: UpSystem) -> None:
    assert len(system.startup_output) <= _MAX_LINES, system.startup_output
    for name in ("redis", "web", "relay", "worker", "beat", "flower"):
        assert any(f"{name} started (pid " in line for line in system.startup_output)
    assert not [line for line in system.output.splitlines() if "[info" in line]
    for name in ("web", "relay", "worker", "beat"):
        assert "process_starts" in system.read_log(name)
    assert "relay started" in system.read_log("up")
    assert f"logs       {system.home}/logs" in system.output


def test_printed_curl_command_works(system: UpSystem) -> None:
    start = system.output.index("curl -s -X POST")
    command = system.output[start:].split("\n\n")[0]

    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout

    execution = json.loads(answer)
    assert execution["job"] == "generate_entity_statistics"
    assert execution["state"] == "Succeeded"


def test_printed_docs_url_works(system: UpSystem) -> None:
    assert system.get_json(f"{system.api}/docs")[0] == 200


def test_flower_requires_password_and_shows_jobs(system: UpSystem) -> None:
    credentials = f"jobworker:{(system.home / 'flower.password').read_text().strip()}"
    assert system.get_json(system.flower)[0] == 401
    assert credentials.partition(":")[2] not in system.output
    # Flower enables the workers' events within seconds of its start, and does not see earlier executions.
    wait_until(lambda: "enabled by remote" in system.read_log("worker"), what="events")

    execution = system.submit_job("generate_entity_statistics")["id"]
    system.wait_until_succeeded(execution)

    def names() -> set[str]:
        status, tasks = system.get_json(f"{system.flower}/api/tasks", credentials)
        assert status == 200
        return {task["name"] for task in tasks.values()}

    wait_until(lambda: "generate_entity_statistics" in names(), what="the job in Flower")
    status, queues = system.get_json(f"{system.flower}/api/queues/length", credentials)
    assert status == 200
    assert "default" in {queue["name"] for queue in queues["active_queues"]}


def test_flower_rejects_changes(system: UpSystem) -> None:
    credentials = f"jobworker:{(system.home / 'flower.password').read_text().strip()}"
    token = base64.b64encode(credentials.encode()).decode()
    url = f"{system.flower}/api/task/async-apply/generate_entity_statistics"
    request = urllib.request.Request(url, b"{}", {"Authorization": f"Basic {token}"})

    assert _open_url(request)[0] == 403


def test_jobworker_commands_work_beside_running_system(system: UpSystem) -> None:
    followed = system.run_command("submit", "cleanup_inactive_entities", "inactive_days=30", "dry_run=true", "--follow")
    assert followed.returncode == 0, followed.stderr
    assert "Running (attempt 1)" in followed.stdout
    execution = followed.stdout.split()[0]

    assert json.loads(system.run_command("wait", execution).stdout)["dry_run"] is True
    assert execution in system.run_command("executions", "--job", "cleanup_inactive_entities").stdout

    doctor = system.run_command("doctor")
    assert "FAIL" not in doctor.stdout
    assert doctor.returncode == 0


def test_celery_commands_and_direct_calls_work_beside_running_system(system: UpSystem) -> None:
    ping = system.run_python("-m", "celery", "-A", "jobworker", "inspect", "ping", "--timeout", "10")
    assert "pong" in ping.stdout, ping.stderr

    called = system.run_python("-m", "celery", "-A", "jobworker", "call", "generate_entity_statistics")
    system.wait_until_succeeded(called.stdout.strip())

    code = "from tasks.entities import generate_entity_statistics as job; print(job.delay().get(timeout=60)['total'])"
    assert system.run_python("-c", code).stdout == "500\n"

    nowhere = {"JOBWORKER_REDIS_URL": "redis://127.0.0.1:1/0"}
    system.environment.update(nowhere)
    try:
        assert "pong" not in system.run_python("-m", "celery", "-A", "jobworker", "inspect", "ping").stdout
    finally:
        system.environment.pop("JOBWORKER_REDIS_URL")


def test_broken_module_reported_once_and_second_ctrl_c_interrupts_jobs(tmp_path: Path) -> None:
    _make_project(tmp_path)
    running = UpSystem(tmp_path, JOBWORKER_TASKS="mine")
    try:
        running.wait_for_output("JobWorker is ready.", within=120)
        running.wait_for_output("[error    ] task_module_broken")
        printed_lines = [line.partition("| ")[2] for line in running.output.splitlines()]
        begin = printed_lines.index("    Traceback (most recent call last):")
        assert printed_lines[begin + 1 : begin + 4] == [
            f'      File "{tmp_path}/mine/mail.py", line 1, in <module>',
            "        import nowhere_to_be_found",
            "    ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ]
        assert running.output.count("Traceback") == 1
        assert len(running.startup_output) <= _MAX_LINES, running.startup_output

        execution = running.submit_job("wait_for_ever")["id"]
        wait_until((tmp_path / "begun").exists, within=60, what="the job")
        running.send_signal(signal.SIGINT)
        running.wait_for_output("jobs that run have 60 s to end. Ctrl-C again interrupts them, a third one kills all")
        running.wait_for_output("stopping worker")
        running.send_signal(signal.SIGINT)
        assert running.wait_for_exit() == 0
        assert "interrupting the jobs; Ctrl-C again kills all" in running.output
        assert "killing" not in running.output
        listed = running.run_command("executions").stdout
        assert "its worker was shut down while it ran" in next(
            line for line in listed.splitlines() if execution in line
        )
    finally:
        running.kill()


def _make_project(folder: Path) -> None:
    """Create a project with a module that cannot be imported, and a job that does not end."""
    for name in ("Procfile", "app.py", "celeryconfig.py", "flowerconfig.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "mail.py").write_text("import nowhere_to_be_found\n")
    (folder / "mine" / "lasting.py").write_text(
        "import pathlib, threading\n\nfrom jobworker import job\n\n\n@job\ndef wait_for_ever():\n"
        "    pathlib.Path('begun').touch()\n    while True:\n        threading.Event().wait(0.1)\n"
    )


def test_ctrl_c_leaves_no_process_and_second_start_resumes(own: UpSystem, tmp_path: Path) -> None:
    done = own.submit_job("generate_entity_statistics")["id"]
    own.wait_until_succeeded(done)
    later = own.submit_job("process_data_export", parameters={"user_id": "u-17", "format": "json"}, delay=3)["id"]
    groups = own.list_service_pids().values()

    assert own.stop() == 0
    assert not list_group_members(*groups)

    again = UpSystem(tmp_path, **_list_ports(own))
    try:
        again.wait_for_output("JobWorker is ready.", within=120)
        assert again.wait_until_succeeded(done)["id"] == done
        assert again.wait_until_succeeded(later)["attempt"] == 1
        assert again.stop() == 0
    finally:
        again.kill()


def test_killed_services_restart_without_losing_executions(own: UpSystem) -> None:
    for victim in ("worker", "relay", "redis"):
        os.kill(own.list_service_pids()[victim], signal.SIGKILL)
        own.wait_for_output(f"{victim} died (killed by SIGKILL)")

    accepted = [own.submit_job("generate_entity_statistics")["id"] for _ in range(10)]

    for execution in accepted:
        own.wait_until_succeeded(execution)
    for victim in ("worker", "relay", "redis"):
        assert f"{victim} started again" in own.output


def test_killed_supervisor_leaves_no_process(own: UpSystem) -> None:
    groups = [own.list_service_pids()[name] for name in ("redis", "web", "relay", "worker", "beat", "flower")]
    # The groups also contain the worker's pool and the web server's process, which the supervisor did not start itself.
    assert len(list_group_members(*groups)) > len(groups)

    own.kill()

    wait_until(lambda: not list_group_members(*groups), what="the end of every process")


def _list_ports(system: UpSystem) -> dict[str, str]:
    return {name: system.environment[name] for name in ("JOBWORKER_BIND", "JOBWORKER_FLOWER_BIND")}
