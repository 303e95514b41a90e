"""Project rules that no linter checks: sizes of modules, imports of public names, and pinned dependencies."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "jobworker").rglob("*.py"))
PINS = ("constraints.txt", "constraints-dev.txt")

#: Maximum lengths (lines), because longer modules and functions are hard to keep in mind.
MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 60


def get_module_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=get_module_name)
def test_module_is_small_and_has_docstring(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_MODULE_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name != "jobworker"], ids=get_module_name)
def test_package_modules_do_not_import_public_names_from_root(path: Path) -> None:
    modules = {module.stem for module in (ROOT / "jobworker").iterdir()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert "jobworker" not in [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "jobworker":
            assert {alias.name for alias in node.names} <= modules


@pytest.mark.parametrize("path", sorted((ROOT / "schedules").rglob("*.py")), ids=get_module_name)
def test_schedules_import_only_from_package_root(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Import)
        assert not isinstance(node, ast.ImportFrom) or node.module == "jobworker"


def list_pins(file: str) -> dict[str, str]:
    """Return the versions that a file pins, by package name."""
    lines = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE)
    return dict(lines)


@pytest.mark.parametrize("file", PINS)
def test_pins_have_hashes_and_no_addresses(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host|@ file", text)
    entries = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(list_pins(file)) > 30
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_development_pins_include_runtime_pins() -> None:
    runtime, development = (list_pins(file) for file in PINS)
    assert {name: development.get(name) for name in runtime} == runtime


def test_pinned_versions_satisfy_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    for file, requirements in (
        (PINS[0], project["project"]["dependencies"] + groups["build"]),
        (PINS[1], groups["dev"]),
    ):
        versions = list_pins(file)
        for requirement in map(Requirement, requirements):
            version = versions.get(requirement.name.lower().replace("_", "-"))
            assert version, f"{requirement.name} is not in {file}: make constraints"
            assert requirement.specifier.contains(version), f"{requirement} but {file} has {version}"


def test_build_backend_requirements_match_build_group() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == project["dependency-groups"]["build"]
