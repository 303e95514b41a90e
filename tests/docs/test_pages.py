"""Links of the documentation have targets, and statements about the structure of the code are true."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from jobworker.api import context, documentation, server
from tests.docs.markdown import (
    DOCS,
    PAGES,
    ROOT,
    get_page_name,
    get_section,
    list_anchors,
    list_links,
    list_sections,
    parse_table,
)

_DECISIONS = sorted((DOCS / "decisions").iterdir())


@pytest.mark.parametrize("page", PAGES, ids=get_page_name)
def test_links_have_existing_targets(page: Path) -> None:
    for link in list_links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in list_anchors(target), link


def test_readme_links_every_page() -> None:
    linked = {(ROOT / link).resolve() for link in list_links(ROOT / "README.md") if not link.startswith("http")}
    there = {page for page in PAGES if page.parent in (ROOT, DOCS)}
    assert there - linked == {ROOT / "README.md"}, "README.md links each page of docs/"


def test_decisions_are_numbered_and_have_required_sections() -> None:
    numbers = [int(page.name[:4]) for page in _DECISIONS]
    assert numbers == sorted(set(numbers))
    for page in _DECISIONS:
        text = page.read_text()
        assert re.match(rf"# {page.name[:4]}: ", text), page
        assert re.search(r"^\*\*Status:\*\* (accepted|superseded by \[)", text, re.MULTILINE), page
        assert list(list_sections(page)) == ["Context", "Decision", "Consequences"], page


def test_relay_maintenance_tasks_are_documented() -> None:
    documented = re.findall(r"^\| ([a-z ]+) \|", get_section(DOCS / "architecture.md", "Maintenance"), re.MULTILINE)
    maintenance_tasks = [
        call.args[0].value.replace("_", " ")
        for call in ast.walk(ast.parse((ROOT / "jobworker/relay/maintenance.py").read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "RelayStep"
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    ]
    assert documented == ["task", *maintenance_tasks]


def test_import_contracts_are_documented() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    documented = re.findall(r"^- \*\*(.+?)\*\*", get_section(DOCS / "architecture.md", "Layers"), re.MULTILINE)
    assert documented == [contract["name"] for contract in project["tool"]["importlinter"]["contracts"]]


def test_packages_are_documented() -> None:
    section = get_section(ROOT / "CONTRIBUTING.md", "Where code belongs")
    packages = {path.stem for path in (ROOT / "jobworker").iterdir() if not path.name.startswith("_")}
    chart = get_section(DOCS / "architecture.md", "Layers")
    for name in packages:
        assert re.search(rf"\b{name}(/|\.py)", section), name
        assert re.search(rf"\b{name}(/|\.py)", chart), name


def test_documented_log_events_exist_in_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "jobworker").rglob("*.py"))
    for event in parse_table(get_section(DOCS / "operations.md", "Logs")):
        assert f'"{event}"' in code, event


def test_api_paths_are_documented() -> None:
    listed = [path for path in parse_table((DOCS / "http.md").read_text()) if path != "/"]
    described = re.findall(r'^    "(/[^"]*)": \{$', documentation.describe().decode(), re.MULTILINE)
    assert "/api/v1/executions/{execution_id}/cancel" in described
    for path in described:
        assert (
            any(path == listed_path or path.startswith(f"{listed_path}/") for listed_path in listed) or path == "/"
        ), path
    for listed_path in listed:
        assert listed_path in {*described, "/docs", "/openapi.json"}, listed_path


def test_documented_thread_count_exceeds_waiting_requests() -> None:
    sentence = re.search(r"One process with (\d+) threads", (DOCS / "cli.md").read_text())
    assert sentence
    assert int(sentence[1]) == server.REQUEST_THREADS
    assert server.REQUEST_THREADS > context.MAX_STREAMS + context.MAX_WAITING_REQUESTS
