"""/api/v1/executions/{id}/files: what jobs left behind, as far as this host has it."""

from typing import Any

from flask import Response, request
from werkzeug.wsgi import wrap_file

from jobworker.api import show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.executions import KeptFile
from jobworker.domain.errors import ExecutionNotFound, FileElsewhere, FileNotFound
from jobworker.services import files

blueprint = Blueprint(
    "files", __name__, url_prefix=f"{show.ROOT}/executions", description="Files that jobs left behind."
)

_BYTES = {"type": "string", "format": "binary"}

#: Whatever it is, no browser shall show it as a page of ours.
_MEDIA_TYPE = "application/octet-stream"


@blueprint.get("/<execution:execution_id>/files")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(KeptFile), "Files, by name.")
@blueprint.document_problems(ExecutionNotFound)
def list_files(query: dict[str, Any], execution_id: str) -> Response:
    """List the files that the job left on this host, and its result if that is a file."""
    here = room()
    found = files.page(here.database, here.settings.home, execution_id, query["limit"], query["cursor"])
    return answer(show.page(found, lambda file: show.file(execution_id, file)))


@blueprint.get("/<execution:execution_id>/files/<string:name>")
@blueprint.document_response(200, _BYTES, "The file.", content_type=_MEDIA_TYPE)
@blueprint.document_problems(ExecutionNotFound, FileNotFound, FileElsewhere)
def download_file(execution_id: str, name: str) -> Response:
    """Download a file; If-None-Match is honoured."""
    here = room()
    stream, file = files.opened(here.database, here.settings.home, execution_id, name)
    response = Response(wrap_file(request.environ, stream), mimetype=_MEDIA_TYPE, direct_passthrough=True)
    response.content_length = file.size
    response.headers.set("Content-Disposition", "attachment", filename=file.name)
    assert file.modified_at is not None
    response.set_etag(file.sha256 or f"{file.modified_at.timestamp():.6f}-{file.size}")
    response.make_conditional(request)
    return response
