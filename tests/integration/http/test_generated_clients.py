"""Clients that generators create from the description of the API: they have every operation, and work."""

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import skip_or_fail
from tests.integration.http.conftest import ApiDriver

_DESCRIPTION = Path("docs/openapi.json").resolve()

#: Packages that npm installs for these tests alone.
_TYPESCRIPT = ("openapi-typescript@7.13.0", "typescript@5.9.3")

#: Timeout of the installation (s): npm downloads 10 MB.
_INSTALL_TIMEOUT_SECONDS = 90


@pytest.fixture(scope="module")
def operations() -> set[str]:
    """Names of all operations."""
    paths = orjson.loads(_DESCRIPTION.read_bytes())["paths"].values()
    return {item[method]["operationId"] for item in paths for method in item.keys() - {"parameters"}}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Client that openapi-python-client generates."""
    # This import takes a second, which other processes of a test run need not spend.
    import openapi_python_client
    from openapi_python_client.config import Config, ConfigFile, MetaType

    folder = tmp_path_factory.mktemp("python")
    config = Config.from_sources(
        ConfigFile(post_hooks=[]), MetaType.NONE, _DESCRIPTION, "utf-8", False, folder / "generated_client"
    )
    problems = openapi_python_client.generate(config=config)
    assert not problems, "\n".join(f"{problem.header} {problem.detail}" for problem in problems)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("generated_client")
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "generated_client"]:
        del sys.modules[name]


def _import_module(name: str) -> Any:
    return importlib.import_module(f"generated_client.{name}")


def test_python_client_has_every_operation(package: ModuleType, operations: set[str]) -> None:
    [folder] = package.__path__
    modules = {path.stem: path for path in Path(folder, "api").glob("*/*.py") if path.stem != "__init__"}
    assert modules.keys() == operations
    for path in modules.values():
        assert callable(_import_module(f"api.{path.parent.name}.{path.stem}").sync_detailed)


def test_python_client_submits_and_reads_executions(package: ModuleType, api: ApiDriver) -> None:
    parameters = {"user_id": "u-17", "options": [1, None, {"deep": True}]}
    submission = _import_module("models").SubmissionBody.from_dict({"parameters": parameters, "delay": "PT1H"})
    transport = httpx.WSGITransport(app=api.app)
    with package.Client("http://localhost", httpx_args={"transport": transport}) as client:
        submitted = _import_module("api.submissions.submit").sync_detailed("export", client=client, body=submission)
        assert submitted.status_code == 202
        execution = _import_module("api.executions.get_execution").sync(submitted.parsed.id, client=client)
        assert (execution.state, execution.parameters.to_dict()["options"]) == ("Scheduled", parameters["options"])
        refused = _import_module("api.submissions.submit").sync("nothing", client=client)
        assert refused.code == "job_not_found"
        business = _import_module("models").CalendarBody.from_dict({"name": "office", "kind": "business", "opened": []})
        calendar = _import_module("api.calendars.create_calendar").sync(client=client, body=business)
        assert calendar.weekend == ["saturday", "sunday"]
        listed = _import_module("api.executions.list_executions").sync(client=client, limit=1)
        assert [row.id for row in listed.items] == [execution.id]


def test_typescript_client_has_every_operation(tmp_path: Path, operations: set[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        skip_or_fail("npm is not installed (Debian: apt-get install npm)")
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--prefix", str(tmp_path)]
    installed = _run_command(npm, "install", *options, *_TYPESCRIPT)
    if installed.returncode:
        skip_or_fail(f"npm cannot install {' '.join(_TYPESCRIPT)}: {installed.stderr[-500:]}")
    programs, client_file = tmp_path / "node_modules" / ".bin", tmp_path / "client.ts"
    generated = _run_command(str(programs / "openapi-typescript"), str(_DESCRIPTION), "--output", str(client_file))
    output = generated.stdout + generated.stderr
    assert generated.returncode == 0, output
    assert not re.search(r"warn|⚠|✘", output, re.IGNORECASE), output
    text = client_file.read_text()
    assert (
        set(re.findall(r"^    (\w+): \{$", text[text.index("export interface operations") :], re.MULTILINE))
        == operations
    )
    checked = _run_command(str(programs / "tsc"), "--strict", "--noEmit", str(client_file))
    assert checked.returncode == 0, checked.stdout


def _run_command(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_SECONDS, check=False)
