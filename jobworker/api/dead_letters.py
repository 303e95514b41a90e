"""/api/v1/dead-letters: what ended badly, until somebody has decided about it."""

from typing import Any

from flask import Response

from jobworker.api import show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.base import page_of
from jobworker.api.schemas.executions import Execution
from jobworker.api.schemas.selections import (
    DeadLetter,
    DeadLetterQuery,
    DiscardBody,
    Done,
    Groups,
    GroupsQuery,
    NoteBody,
    RedriveBody,
    RerunBody,
)
from jobworker.domain.errors import (
    ExecutionNotFound,
    InvalidCursor,
    InvalidParameters,
    JobDisabled,
    JobRemoved,
    NotADeadLetter,
    NotFinished,
    NotUnique,
    TaskNotFound,
    UnknownQueue,
)
from jobworker.services import dead_letters
from jobworker.services.dead_letters import Order
from jobworker.services.selection import Selection
from jobworker.store.filters import Filters

blueprint = Blueprint(
    "dead-letters",
    __name__,
    url_prefix=show.ROOT,
    description="Executions that ended badly: run them again, all at once or changed, or leave them at that.",
)


@blueprint.get("/dead-letters")
@blueprint.accept_query(DeadLetterQuery())
@blueprint.document_response(200, page_of(DeadLetter), "Open dead letters, the executions that were accepted last first.")
def list_dead_letters(query: dict[str, Any]) -> Response:
    """List open dead letters; filters are combined with "and"."""
    limit, cursor = query.pop("limit"), query.pop("cursor")
    found = dead_letters.page(room().database, Filters(**query), limit, cursor)
    return answer(show.page(found, show.dead_letter))


@blueprint.get("/dead-letters/groups")
@blueprint.accept_query(GroupsQuery())
@blueprint.document_response(200, Groups(), "Open dead letters by their fingerprints, the largest groups first.")
def list_groups(query: dict[str, Any]) -> Response:
    """Count open dead letters by the kind of their failure."""
    found = dead_letters.groups(room().database, query["limit"])
    return answer({"items": [show.group(each) for each in found]})


@blueprint.post("/dead-letters/redrive")
@blueprint.arguments(RedriveBody())
@blueprint.document_response(200, Done(), "What was done, or would be; `next` says whether something remains.")
@blueprint.document_problems(InvalidCursor)
def redrive(body: dict[str, Any]) -> Response:
    """Run dead letters again, each as a new execution. Asking again does nothing to those."""
    selection: Selection = body.pop("selection")
    done = dead_letters.redrive(room().database, room().clock, selection, Order(**body), ACTOR)
    room().notify_change()
    return answer(show.done(done))


@blueprint.post("/dead-letters/discard")
@blueprint.arguments(DiscardBody())
@blueprint.document_response(200, Done(), "What was done, or would be; `next` says whether something remains.")
@blueprint.document_problems(InvalidCursor)
def discard(body: dict[str, Any]) -> Response:
    """Leave dead letters at that."""
    done = dead_letters.discard(room().database, room().clock, body["selection"], body["note"], ACTOR)
    return answer(show.done(done))


@blueprint.post("/executions/<execution:execution_id>/rerun")
@blueprint.arguments(RerunBody(), required=False)
@blueprint.document_response(
    202,
    Execution(),
    "The new execution.",
    headers={"Location": {"description": "The new execution.", "schema": {"type": "string"}}},
)
@blueprint.document_problems(
    ExecutionNotFound, NotFinished, JobDisabled, JobRemoved, NotUnique, TaskNotFound, InvalidParameters, UnknownQueue
)
def rerun(body: dict[str, Any], execution_id: str) -> Response:
    """Run an execution that has ended again, however it ended. Asking again runs it once more."""
    made = dead_letters.rerun(room().database, room().clock, execution_id, Order(**body), ACTOR)
    room().record_submissions(1)
    return answer(show.execution(made), 202, {"Location": f"{show.ROOT}/executions/{made.id}"})


@blueprint.post("/executions/<execution:execution_id>/discard")
@blueprint.arguments(NoteBody(), required=False)
@blueprint.document_response(200, Execution(), "It is discarded.")
@blueprint.document_problems(ExecutionNotFound, NotADeadLetter)
def discard_execution(body: dict[str, Any], execution_id: str) -> Response:
    """Leave one dead letter at that. Asking again changes nothing."""
    row = dead_letters.discard_one(room().database, room().clock, execution_id, body["note"], ACTOR)
    return answer(show.execution(row))
