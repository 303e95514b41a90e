"""A job definition as a value and as JSON."""

import json

import pytest

from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import (
    BUILTIN_QUEUES,
    NAME_PATTERN,
    QUEUE_NAME_PATTERN,
    JobDefinition,
    OnWorkerLost,
)
from jobworker.domain.jobs.retry import parse

FULL = JobDefinition(
    name="nightly",
    task="tasks.exports.export",
    description="Every night",
    enabled=False,
    queue="background",
    priority=9,
    defaults={"format": "csv"},
    time_limit=60,
    soft_time_limit=50,
    on_worker_lost=OnWorkerLost.FAIL,
    schedule={"kind": "interval", "every": 60},
    tags=("reports", "slow"),
    policies={**policies.DEFAULTS, "retry": parse({"max_attempts": 3}).to_json()},
)


@pytest.mark.parametrize("definition", [FULL, JobDefinition(name="plain", task="plain")])
def test_definition_json_round_trip(definition: JobDefinition) -> None:
    assert JobDefinition.from_json(json.loads(json.dumps(definition.to_json()))) == definition


def test_policies_shown_as_top_level_fields() -> None:
    shown = FULL.to_json()
    assert shown["retry"]["max_attempts"] == 3
    assert not {"max_attempts", "policies"} & set(shown)


def test_missing_stored_fields_have_defaults() -> None:
    assert JobDefinition.from_json({"name": "old", "task": "old"}) == JobDefinition(name="old", task="old")


@pytest.mark.parametrize("name", ["a", "process_data_export", "tasks.exports:run", "0-x", "A" * 128])
def test_valid_job_names_accepted(name: str) -> None:
    assert NAME_PATTERN.match(name)


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a/b", "naïve", "a\n", "A" * 129])
def test_invalid_job_names_rejected(name: str) -> None:
    assert not NAME_PATTERN.match(name)


@pytest.mark.parametrize("name", ["", "Default", "a/b", "a\n", "a" * 65])
def test_invalid_queue_names_rejected(name: str) -> None:
    assert not QUEUE_NAME_PATTERN.match(name)


def test_builtin_queues_have_valid_names() -> None:
    assert all(QUEUE_NAME_PATTERN.match(name) for name in BUILTIN_QUEUES)
