"""Examples of the documentation, run on a running system: its jobs are submitted and its commands executed."""

import contextlib
import dataclasses
import inspect
import itertools
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from jobworker import Context, job
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import BUILTIN_QUEUES as _QUEUES
from jobworker.up.redis_server import EmbeddedRedis
from tests.acceptance.test_up import UpSystem
from tests.docs.json_patterns import check_match
from tests.docs.markdown import DOCS, PAGES, ROOT, CodeBlock, get_page_name, get_section, list_code_blocks, parse_table
from tests.polling import wait_until

pytestmark = pytest.mark.timeout(300)

_DOCUMENTED_URL = "http://127.0.0.1:8000"

#: A block with such a line needs a running system.
_COMMAND_PATTERN = re.compile(
    r"^(\w+=\$\()?(curl|python3|jobworker (submit|wait|executions|simulate|schedules)) ", re.MULTILINE
)


def _list_documented_modules() -> Iterator[tuple[str, str]]:
    """Yield every Python block that names its file, with that file."""
    for page in PAGES:
        for block in list_code_blocks(page, "python"):
            if match := re.match(r"# ((?:tasks|schedules)/\w+\.py)\n", block.code):
                yield match[1], block.code


def _list_documented_commands() -> Iterator[tuple[str, str, CodeBlock | None]]:
    """Yield every block of shell commands for a running system, with the documented output."""
    for page in PAGES:
        blocks = list_code_blocks(page)
        for block, following in itertools.zip_longest(blocks, blocks[1:]):
            if block.language == "sh" and re.search(
                r"^(\w+=\$\()?(curl|jobworker (submit|wait|exec|simulate|schedules))", block.code, re.MULTILINE
            ):
                shown = following if following and following.language in ("json", "text") else None
                yield get_page_name(page), block.code, shown


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpSystem]:
    """A system in a folder like a user's: with the shipped jobs and those of the documentation."""
    folder = tmp_path_factory.mktemp("documented")
    for package in ("tasks", "schedules"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("Procfile", "app.py", "celeryconfig.py", "flowerconfig.py"):
        shutil.copy(ROOT / file, folder)
    for file, code in _list_documented_modules():
        (folder / file).write_text(code)
    running = UpSystem(folder)
    running.wait_for_output("JobWorker is ready.", within=120)
    yield running
    running.kill()


def _run_commands(system: UpSystem, commands: str) -> str:
    environment = {**system.environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", commands.replace(_DOCUMENTED_URL, system.api)],
        cwd=system.home.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def test_documented_commands_print_documented_output(system: UpSystem) -> None:
    # In their order: some commands use results of earlier commands.
    for page, commands, shown in _list_documented_commands():
        answer = _run_commands(system, commands)
        if shown is not None:
            try:
                check_match(shown.code, answer, shown.language)
            except AssertionError as error:
                raise AssertionError(f"{page}: {commands}\nanswered {answer}\n{error}") from None


def test_documented_backup_contains_accepted_execution(system: UpSystem) -> None:
    accepted = system.submit_job("generate_entity_statistics")["id"]
    [block] = [block for block in list_code_blocks(DOCS / "operations.md", "sh") if "backup" in block.code]
    _run_commands(system, block.code)
    with contextlib.closing(sqlite3.connect(system.home.parent / "backup.db")) as copy:
        assert copy.execute("SELECT count(*) FROM executions WHERE id = ?", [accepted]).fetchone() == (1,)


def test_documentation_has_commands_and_jobs() -> None:
    assert len(list(_list_documented_commands())) >= 12
    assert len(list(_list_documented_modules())) >= 6


#: Parameters and expected result of each documented job.
_JOB_RUNS: dict[str, tuple[dict[str, object], object]] = {
    "crawl": ({"pages": 2}, 2),
    "greet": ({"name": "Ada", "times": 2}, {"greeting": "hello Ada, hello Ada"}),
    "everything": ({"text": "t", "mode": "thorough"}, ["t", 1, 0.5, False, [], {}, "thorough", "small", None, None]),
    "fetch": ({"good_attempt": 3}, 3),
    "synchronise": ({"answer": "busy"}, "busy in attempt 2"),
    "look": ({"good_attempt": 3}, 3),
    "poll": ({"ready_attempt": 4}, 4),
    "fetch_pages": ({"pages": 3, "fails_at": 2}, {"attempt": 2, "pages": 3}),
    "nightly": ({}, None),
    "crunch": ({"rows": 10}, 45),
    "Transfer": ({"source": "there", "rows": 2}, {"source": "there", "moved": 2}),
    "sync_tenant": ({"tenant_id": "t-1"}, "t-1"),
    "report_once": ({"month": "May"}, "May"),
    "tasks.plain.add": ({"left": 2, "right": 3}, 5),
}

#: Jobs whose result a separate test checks.
_UNTESTED_JOBS = {"write_report", "tick"}


def test_documented_jobs_return_expected_results(system: UpSystem) -> None:
    accepted = {
        name: system.submit_job(name, parameters=parameters)["id"] for name, (parameters, _) in _JOB_RUNS.items()
    }
    assert {name: system.wait_until_succeeded(accepted[name])["result"] for name in _JOB_RUNS} == {
        name: result for name, (_, result) in _JOB_RUNS.items()
    }


def test_documented_report_job_writes_file_and_log(system: UpSystem) -> None:
    accepted = system.submit_job("write_report", parameters={"month": "May", "format": "json"})["id"]
    ended = system.wait_until_succeeded(accepted)
    assert Path(ended["result"]["file"]).read_text().splitlines() == ["May,0", "May,1", "May,2"]
    assert Path(ended["result"]["file"]).parent == system.home / "files" / accepted
    _, logs = system.get_json(f"{system.api}/api/v1/executions/{accepted}/logs")
    assert [line["message"] for line in logs["items"]] == ["3 rows"]
    assert ended["progress"]["done"] == 3
    _, definition = system.get_json(f"{system.api}/api/v1/jobs/write_report")
    assert (definition["queue"], definition["tags"], definition["retry"]["max_attempts"]) == (
        "background",
        ["reports"],
        6,
    )


def test_documented_schedule_starts_its_job(system: UpSystem) -> None:
    def ticked() -> list[str]:
        # Filtered by schedule, because another documented schedule starts this job every half hour.
        _, page = system.get_json(f"{system.api}/api/v1/executions?schedule=tick&state=Succeeded")
        return [execution["result"] for execution in page["items"]]

    wait_until(lambda: len(ticked()) >= 2, what="the second occurrence")
    assert len(set(ticked())) == len(ticked())


def test_documented_retry_limit_ends_attempts(system: UpSystem) -> None:
    accepted = system.submit_job("fetch", parameters={"good_attempt": 4})["id"]

    def ended() -> dict[str, object]:
        _, execution = system.get_json(f"{system.api}/api/v1/executions/{accepted}")
        return execution if execution["finished_at"] else {}

    execution = wait_until(ended, what="the end of its attempts")
    assert (execution["state"], execution["attempt"]) == ("Failed", 3)


def test_documented_parameter_types_match_definition(system: UpSystem) -> None:
    _, definition = system.get_json(f"{system.api}/api/v1/jobs/everything")
    assert {parameter["name"]: parameter["type"] for parameter in definition["parameters"]} == {
        "text": "string",
        "count": "integer",
        "ratio": "number",
        "flag": "boolean",
        "items": "array",
        "options": "object",
        "mode": "string",
        "size": "string",
        "note": "string",
        "anything": "any",
    }
    assert [parameter["name"] for parameter in definition["parameters"] if parameter["required"]] == ["text"]
    choices = {
        parameter["name"]: parameter["choices"] for parameter in definition["parameters"] if parameter["choices"]
    }
    assert choices == {"mode": ["fast", "thorough"], "size": ["small", "large"]}


def test_every_documented_job_has_a_test(system: UpSystem) -> None:
    _, listed = system.get_json(f"{system.api}/api/v1/jobs?limit=200")
    shipped = {"cleanup_inactive_entities", "generate_entity_statistics", "process_data_export"}
    shipped |= {"http.request", "shell.run", "container.run"}
    assert {item["name"] for item in listed["items"] if item["owner"] == "code"} == {
        *_JOB_RUNS,
        *_UNTESTED_JOBS,
        *shipped,
    }


def test_existing_redis_keys_are_documented(system: UpSystem) -> None:
    patterns = [
        re.sub(r"\\\{\w+\\\}", ".+", re.escape(key.replace(r"\x06\x16", "\x06\x16")))
        for heading in ("Keys of JobWorker", "Keys of RedBeat", "Keys of Celery")
        for key in parse_table(get_section(DOCS / "redis-keys.md", heading))
        # `{queue}` alone would match any key.
        if not key.startswith("{queue}")
    ]
    others = ["example:entity-statistics", *(rf"{queue}(\x06\x16[369])?" for queue in _QUEUES)]
    url = get_redis_url(system)
    with redis.Redis.from_url(url, decode_responses=True) as client:
        keys = list(client.scan_iter())
    assert "jw:epoch" in keys
    assert [key for key in keys if not any(re.fullmatch(pattern, key) for pattern in [*patterns, *others])] == []


def get_redis_url(system: UpSystem) -> str:
    """Return the URL of the system's own Redis."""
    url = EmbeddedRedis(system.home).url
    assert url is not None
    return url


def test_scraped_metrics_are_documented(system: UpSystem) -> None:
    _, text = system.get_json(f"{system.api}/metrics")
    scraped = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    ours = {name for name in scraped if not name.startswith(("process_", "python_info"))}
    assert ours == set(parse_table((DOCS / "metrics.md").read_text()))


def test_job_options_are_documented() -> None:
    page = (DOCS / "jobs.md").read_text()
    own = [
        name
        for name, parameter in inspect.signature(job).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    listed = parse_table(page)
    assert sorted(listed) == sorted({*own, *policies.PARSERS})
    defaults = {"name": "the function's name", "schedule": "none", "tags": "none"}
    for name in own:
        default = inspect.signature(job).parameters[name].default
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        assert listed[name][0].strip("`") == defaults.get(name, shown)


def test_context_attributes_are_documented() -> None:
    listed = parse_table(get_section(DOCS / "jobs.md", "Context"))
    fields = [field.name for field in dataclasses.fields(Context) if not field.name.startswith("_")]
    more = [
        name
        for name, value in vars(Context).items()
        if (inspect.isfunction(value) or isinstance(value, property)) and not name.startswith("_")
    ]
    assert list(listed) == [*fields, *more]
