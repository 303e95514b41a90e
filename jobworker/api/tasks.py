"""/api/v1/tasks: what workers can run."""

from typing import Any

from flask import Response

from jobworker.api import show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.jobs import Task
from jobworker.domain.errors import TaskNotFound
from jobworker.services import jobs

blueprint = Blueprint(
    "tasks", __name__, url_prefix=f"{show.ROOT}/tasks", description="What workers can run, as they announced it."
)


@blueprint.get("")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(Task), "Tasks by name.")
def list_tasks(query: dict[str, Any]) -> Response:
    """List the tasks."""
    found = jobs.page_tasks(room().database, query["limit"], query["cursor"])
    return answer(show.page(found, show.task))


@blueprint.get("/<string:name>")
@blueprint.document_response(200, Task(), "The task.")
@blueprint.document_problems(TaskNotFound)
def get_task(name: str) -> Response:
    """Read a task with its parameters."""
    return answer(show.task(jobs.get_task(room().database, name)))
