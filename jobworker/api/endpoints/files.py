"""Endpoints of /api/v1/executions/{id}/files: files of executions on this host."""

from typing import Any

from flask import Response, request
from werkzeug.wsgi import wrap_file

from jobworker.api import serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.files import KeptFileSchema
from jobworker.domain.errors import ExecutionNotFound, FileNotFound, FileOnOtherHost
from jobworker.services.executions import files

blueprint = Blueprint(
    "files", __name__, url_prefix=f"{serializers.ROOT}/executions", description="Files that jobs stored."
)

_BINARY_SCHEMA = {"type": "string", "format": "binary"}

#: Media type of every file, so that no browser shows one as a page of this service.
_MEDIA_TYPE = "application/octet-stream"


@blueprint.get("/<execution:execution_id>/files")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(KeptFileSchema), "Files, sorted by name.")
@blueprint.document_problems(ExecutionNotFound)
def list_files(query: dict[str, Any], execution_id: str) -> Response:
    """List the files that the job stored on this host, and its result if that is a file."""
    context = get_context()
    page = files.list_page(context.database, context.settings.home, execution_id, query["limit"], query["cursor"])
    return make_json_response(
        serializers.serialize_page(page, lambda file: serializers.serialize_file(execution_id, file))
    )


@blueprint.get("/<execution:execution_id>/files/<string:name>")
@blueprint.document_response(200, _BINARY_SCHEMA, "The file.", content_type=_MEDIA_TYPE)
@blueprint.document_problems(ExecutionNotFound, FileNotFound, FileOnOtherHost)
def download_file(execution_id: str, name: str) -> Response:
    """Download a file. If-None-Match is supported."""
    context = get_context()
    stream, file = files.open_file(context.database, context.settings.home, execution_id, name)
    response = Response(wrap_file(request.environ, stream), mimetype=_MEDIA_TYPE, direct_passthrough=True)
    response.content_length = file.size
    response.headers.set("Content-Disposition", "attachment", filename=file.name)
    assert file.modified_at is not None
    response.set_etag(file.sha256 or f"{file.modified_at.timestamp():.6f}-{file.size}")
    response.make_conditional(request)
    return response
