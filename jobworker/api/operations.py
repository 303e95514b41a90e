"""What operators and their machines look at: /healthz, /readyz, /metrics, and / as a signpost."""

from typing import Any

from flask import Response
from marshmallow import fields
from prometheus_client import CONTENT_TYPE_LATEST

from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import room
from jobworker.api.schemas.base import Answer, text
from jobworker.services.health import Check

blueprint = Blueprint("operations", __name__, description="For operators.")

#: What must be right for work to be accepted; the rest must be right for it to be run on time.
_NEEDED_TO_ACCEPT = frozenset({"database", "migrations"})


class HealthCheck(Answer):
    """One check."""

    status = text("ok or failed")
    detail = fields.String()


class Readiness(Answer):
    """All checks by name."""

    status = text("`ready`; `degraded`: work is accepted, and runs when the failed checks pass again; `unready`.")
    checks = fields.Dict(values=fields.Nested(HealthCheck))


class Signpost(Answer):
    """Where things are."""

    name = fields.String()
    links = fields.Dict(values=fields.String())


@blueprint.get("/")
@blueprint.document_response(200, Signpost(), "Links.")
def signpost() -> Response:
    """Say where things are."""
    links = {
        "docs": "/docs",
        "openapi": "/openapi.json",
        "tasks": "/api/v1/tasks",
        "jobs": "/api/v1/jobs",
        "executions": "/api/v1/executions",
        "ready": "/readyz",
        "metrics": "/metrics",
    }
    return answer({"name": "JobWorker", "links": links})


@blueprint.get("/healthz")
@blueprint.document_response(200, {"type": "object", "properties": {"status": {"type": "string"}}}, "This process answers.")
def healthz() -> Response:
    """Is this process alive? Asks nobody else."""
    return answer({"status": "alive"})


@blueprint.get("/readyz")
@blueprint.document_response(200, Readiness(), "Work is accepted and run.")
@blueprint.document_response(503, Readiness(), "Something is missing.")
def readyz() -> Response:
    """Is everything there that work needs to be accepted and run? 503, in the same form, if not."""
    checks = room().health.run_checks()
    room().health.log_warnings(checks)
    status = _status(checks)
    shown: dict[str, Any] = {
        each.name: {"status": "ok" if each.ok else "failed", "detail": each.detail} for each in checks
    }
    return answer({"status": status, "checks": shown}, 200 if status == "ready" else 503)


@blueprint.get("/metrics")
@blueprint.document_response(200, {"type": "string"}, "Prometheus' text format.", content_type="text/plain")
def metrics() -> Response:
    """Figures for Prometheus."""
    here = room()
    content = here.metrics.render(here.health.collect_census(), here.clock.now())
    return Response(content, content_type=CONTENT_TYPE_LATEST)


def _status(checks: list[Check]) -> str:
    failed = {each.name for each in checks if not each.ok}
    if failed & _NEEDED_TO_ACCEPT:
        return "unready"
    return "degraded" if failed else "ready"
