"""Endpoints for operators and monitoring: /healthz, /readyz, /metrics, and / with links."""

from typing import Any

from flask import Response
from marshmallow import fields
from prometheus_client import CONTENT_TYPE_LATEST

from jobworker.api.blueprint import Blueprint
from jobworker.api.context import get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import ResponseSchema, text_field
from jobworker.services.health import CheckResult

blueprint = Blueprint("operations", __name__, description="Health, readiness and metrics.")

#: Checks that must pass for work to be accepted. The others must pass for it to run on time.
_REQUIRED_CHECKS = frozenset({"database", "migrations"})


class HealthCheckSchema(ResponseSchema):
    """Result of one check."""

    status = text_field("`ok` or `failed`.")
    detail = fields.String()


class ReadinessSchema(ResponseSchema):
    """Results of all checks, by name."""

    status = text_field(
        "`ready`; `degraded`: work is accepted, but runs only when the failed checks pass again; or `unready`."
    )
    checks = fields.Dict(values=fields.Nested(HealthCheckSchema))


class SignpostSchema(ResponseSchema):
    """Links to the main resources."""

    name = fields.String()
    links = fields.Dict(values=fields.String())


@blueprint.get("/")
@blueprint.document_response(200, SignpostSchema(), "Links.")
def signpost() -> Response:
    """Get links to the main resources."""
    links = {
        "docs": "/docs",
        "openapi": "/openapi.json",
        "tasks": "/api/v1/tasks",
        "jobs": "/api/v1/jobs",
        "executions": "/api/v1/executions",
        "ready": "/readyz",
        "metrics": "/metrics",
    }
    return make_json_response({"name": "JobWorker", "links": links})


@blueprint.get("/healthz")
@blueprint.document_response(
    200, {"type": "object", "properties": {"status": {"type": "string"}}}, "The process is alive."
)
def healthz() -> Response:
    """Check that this process is alive. No other service is involved."""
    return make_json_response({"status": "alive"})


@blueprint.get("/readyz")
@blueprint.document_response(200, ReadinessSchema(), "Work is accepted and run.")
@blueprint.document_response(503, ReadinessSchema(), "A check failed.")
def readyz() -> Response:
    """Check that work can be accepted and run. The status is 503, with a body of the same form, if a check failed."""
    checks = get_context().health.run_checks()
    get_context().health.log_warnings(checks)
    status = _summarize_status(checks)
    shown: dict[str, Any] = {
        check.name: {"status": "ok" if check.ok else "failed", "detail": check.detail} for check in checks
    }
    return make_json_response({"status": status, "checks": shown}, 200 if status == "ready" else 503)


@blueprint.get("/metrics")
@blueprint.document_response(200, {"type": "string"}, "Metrics in Prometheus' text format.", content_type="text/plain")
def metrics() -> Response:
    """Get metrics for Prometheus."""
    context = get_context()
    content = context.metrics.render(context.health.collect_statistics(), context.clock.now())
    return Response(content, content_type=CONTENT_TYPE_LATEST)


def _summarize_status(checks: list[CheckResult]) -> str:
    failed = {check.name for check in checks if not check.ok}
    if failed & _REQUIRED_CHECKS:
        return "unready"
    return "degraded" if failed else "ready"
