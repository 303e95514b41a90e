"""Endpoints of /api/v1/tasks."""

from typing import Any

from flask import Response

from jobworker.api import serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.jobs import TaskSchema
from jobworker.domain.errors import TaskNotFound
from jobworker.services.jobs import jobs

blueprint = Blueprint(
    "tasks", __name__, url_prefix=f"{serializers.ROOT}/tasks", description="Tasks that workers have announced."
)


@blueprint.get("")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(TaskSchema), "Tasks, sorted by name.")
def list_tasks(query: dict[str, Any]) -> Response:
    """List tasks."""
    page = jobs.list_tasks(get_context().database, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_task))


@blueprint.get("/<string:name>")
@blueprint.document_response(200, TaskSchema(), "The task.")
@blueprint.document_problems(TaskNotFound)
def get_task(name: str) -> Response:
    """Get a task with its parameters."""
    return make_json_response(serializers.serialize_task(jobs.get_task(get_context().database, name)))
