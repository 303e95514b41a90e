"""Lists in the documentation compared with the code: states, settings, keys, errors, metrics, commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import prometheus_client

from jobworker.api import problems
from jobworker.api.blueprint import _BodyTooLarge
from jobworker.cli import main
from jobworker.domain import errors
from jobworker.domain.errors import JobWorkerError
from jobworker.domain.executions.execution import ExecutionState
from jobworker.settings import Settings
from jobworker.telemetry.metrics import Metrics
from jobworker.transport import keys
from jobworker.transport.beat import entry_format
from tests.docs import chart
from tests.docs.markdown import DOCS, ROOT, get_section, list_code_blocks, list_sections, parse_table


def test_state_chart_matches_transition_table() -> None:
    [shown] = list_code_blocks(DOCS / "states.md", "mermaid")
    assert shown.code == chart.render_chart(), "paste the output of: python -m tests.docs.chart"


def test_states_have_documented_sections() -> None:
    headings = [heading for heading in list_sections(DOCS / "states.md") if heading in set(ExecutionState)]
    assert headings == list(ExecutionState)


def test_settings_are_documented_with_defaults() -> None:
    listed = {
        name.removeprefix("JOBWORKER_").lower(): cells[0]
        for name, cells in parse_table((DOCS / "settings.md").read_text()).items()
    }
    assert list(listed) == list(Settings.__dataclass_fields__)
    real = Settings.from_environment({})
    for name, default in listed.items():
        text = "" if default == "(empty)" else default.strip("`").replace("$JOBWORKER_HOME", str(real.home))
        loaded = Settings.from_environment({f"JOBWORKER_{name.upper()}": text})
        assert getattr(loaded, name) == getattr(real, name), name
        assert bool(text) == bool(getattr(real, name)), f"{name}: the default is not shown"


def test_jobworker_redis_keys_are_documented() -> None:
    listed = {
        cells[0].strip("`"): key
        for key, cells in parse_table(get_section(DOCS / "redis-keys.md", "Keys of JobWorker")).items()
    }
    assert listed == {name: value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}


def test_redbeat_redis_keys_are_documented() -> None:
    listed = list(parse_table(get_section(DOCS / "redis-keys.md", "Keys of RedBeat")))
    assert listed == [entry_format.SCHEDULE_KEY, "redbeat::lock", entry_format.build_entry_key("{schedule}")]


def test_error_codes_are_documented_with_status() -> None:
    listed = {code: int(cells[0]) for code, cells in parse_table(get_section(DOCS / "errors.md", "Codes")).items()}
    ours = {
        kind.code: problems.get_status(kind)[0]
        for kind in _list_subclasses(JobWorkerError)
        if kind is not _BodyTooLarge
    }
    theirs = {code: status for status, code in problems._HTTP_CODES.items()}
    assert listed == {**ours, **theirs, "database_unavailable": 503}
    assert list(listed.values()) == sorted(listed.values())


def test_error_classes_have_distinct_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, JobWorkerError)]
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_field_error_codes_are_documented() -> None:
    listed = set(parse_table(get_section(DOCS / "errors.md", "Codes of field errors")))
    passed_on = {"job_not_found", "job_disabled", "job_removed", "task_not_found"}
    assert listed == set(_list_field_codes()) | passed_on


def test_blockers_are_documented() -> None:
    listed = set(parse_table(get_section(DOCS / "http.md", "Blockers")))
    nodes = ast.walk(ast.parse((ROOT / "jobworker/domain/executions/blockers.py").read_text()))
    calls = [
        node for node in nodes if isinstance(node, ast.Call) and _get_called_name(node) in ("Blocker", "_detect_full")
    ]
    assert listed == {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}


def test_metrics_are_documented() -> None:
    metrics = Metrics()
    metric_objects = [
        metric for metric in vars(metrics).values() if isinstance(metric, prometheus_client.metrics.MetricWrapperBase)
    ]
    documented = parse_table((DOCS / "metrics.md").read_text())
    assert documented == {
        _list_series(metric): [metric._type, ", ".join(metric._labelnames), metric._documentation]
        for metric in metric_objects
    }


def test_commands_are_documented_with_options() -> None:
    page = DOCS / "cli.md"
    sections = {heading: text for heading, text in list_sections(page).items() if heading.startswith("jobworker ")}
    commands = dict(_list_commands("jobworker", main))
    assert set(sections) == set(commands)
    for name, command in commands.items():
        assert sections[name].strip().splitlines()[0] == " ".join((command.help or "").split()), name
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert parse_table(sections[name]) == {option.opts[0]: [option.help] for option in options}, name


def _list_subclasses(kind: type[JobWorkerError]) -> Iterator[type[JobWorkerError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__.startswith("jobworker."):
            yield from _list_subclasses(below)


#: Calls that create a FieldError, and the position of the argument that is its code.
_CODE_ARGUMENT_POSITIONS = {"FieldError": 1, "_invalid": 1, "CodedMessage": 0}


def _list_field_codes() -> Iterator[str]:
    for path in (ROOT / "jobworker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (at := _get_code(node)) is not None:
                code = node.args[at] if len(node.args) > at else None
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value


def _get_code(call: ast.Call) -> int | None:
    # `add_problem(name, code, message)` of a reader; other functions of this name take fewer arguments.
    if _get_called_name(call) == "add_problem":
        return 1 if len(call.args) == 3 else None
    return _CODE_ARGUMENT_POSITIONS.get(_get_called_name(call))


def _get_called_name(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def _list_series(metric: prometheus_client.metrics.MetricWrapperBase) -> str:
    return f"{metric._name}_total" if metric._type == "counter" else str(metric._name)


def _list_commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name, command
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for subcommand_name in command.list_commands(context):
        subcommand = command.get_command(context, subcommand_name)
        assert subcommand is not None
        yield from _list_commands(f"{name} {subcommand_name}", subcommand)


def test_environment_variables_in_code_are_documented() -> None:
    listed = set(parse_table((DOCS / "settings.md").read_text()))
    for path in [*(ROOT / "jobworker").rglob("*.py"), *(ROOT / "tasks").rglob("*.py"), *_list_top_level_commands()]:
        assert set(re.findall(r"JOBWORKER_[A-Z_]*[A-Z]", path.read_text())) <= listed, path


def _list_top_level_commands() -> Iterator[Path]:
    yield from ROOT.glob("*.py")
