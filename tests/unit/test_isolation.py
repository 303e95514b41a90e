"""The isolation policy of a job definition."""

from typing import Any

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.jobs import isolation, policies
from jobworker.domain.jobs.admission import validate_definition
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.jobs.parameters import VARIADIC

MIB = 1024**2


@pytest.mark.parametrize(
    ("described", "shown"),
    [
        ({"mode": "in_process"}, {"mode": "in_process"}),
        ({"mode": "process"}, {"mode": "process", "memory": None, "cpu": None, "open_files": None}),
        (
            {"mode": "process", "memory": 256 * MIB, "cpu": 60, "open_files": 100},
            {"mode": "process", "memory": 256 * MIB, "cpu": 60, "open_files": 100},
        ),
        (
            {"mode": "container", "image": "registry.example/team/report:1.2"},
            {
                "mode": "container", "image": "registry.example/team/report:1.2", "command": [], "memory": None,
                "cpus": None, "processes": 256, "network": "none",
            },
        ),
        (
            {
                "mode": "container", "image": "x", "command": ["a", "-b"], "memory": 64 * MIB,
                "cpus": 0.5, "network": "lan",
            },
            {
                "mode": "container", "image": "x", "command": ["a", "-b"], "memory": 64 * MIB,
                "cpus": 0.5, "processes": 256, "network": "lan",
            },
        ),
    ],
)  # fmt: skip
def test_isolation_modes_parsed_with_defaults(described: dict[str, Any], shown: dict[str, Any]) -> None:
    policy = isolation.parse(described)
    assert policy.to_json() == shown
    assert isolation.parse(policy.to_json()) == policy


@pytest.mark.parametrize(
    ("described", "places"),
    [
        ("container", [("/isolation", "wrong_type")]),
        ({}, [("/isolation/mode", "missing")]),
        ({"mode": "vm"}, [("/isolation/mode", "not_allowed")]),
        ({"mode": "in_process", "memory": 256 * MIB}, [("/isolation/memory", "unknown_field")]),
        ({"mode": "process", "image": "x"}, [("/isolation/image", "unknown_field")]),
        ({"mode": "process", "memory": 1000}, [("/isolation/memory", "not_allowed")]),
        ({"mode": "process", "memory": "256M"}, [("/isolation/memory", "wrong_type")]),
        (
            {"mode": "process", "cpu": 0, "open_files": 3},
            [("/isolation/cpu", "not_allowed"), ("/isolation/open_files", "not_allowed")],
        ),
        ({"mode": "container"}, [("/isolation/image", "missing")]),
        ({"mode": "container", "image": "--privileged"}, [("/isolation/image", "wrong_type")]),
        ({"mode": "container", "image": "x", "network": "-host"}, [("/isolation/network", "wrong_type")]),
        ({"mode": "container", "image": "x", "command": "rm -rf /"}, [("/isolation/command", "wrong_type")]),
        ({"mode": "container", "image": "x", "cpus": 0}, [("/isolation/cpus", "not_allowed")]),
    ],
)
def test_invalid_isolation_rejected(described: Any, places: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInput) as refused:
        isolation.parse(described)
    assert [(problem.pointer, problem.code) for problem in refused.value.errors] == places


@pytest.mark.parametrize(
    ("task", "described", "places"),
    [
        ("container.run", {"mode": "container", "image": "x"}, []),
        ("container.run", {"mode": "process"}, ["/isolation"]),
        ("container.run", None, ["/isolation"]),
        ("send", {"mode": "container", "image": "x"}, ["/task"]),
        ("send", {"mode": "process"}, []),
        ("send", "process", ["/isolation"]),
    ],
)
def test_container_isolation_only_with_container_run(task: str, described: Any, places: list[str]) -> None:
    definition = JobDefinition("j", task, policies={**policies.DEFAULTS, "isolation": described})
    assert [problem.pointer for problem in validate_definition(definition, [VARIADIC])] == places
