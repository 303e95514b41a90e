"""A minimal HTTP client of JobWorker's own API, which needs only the standard library."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

#: An opener without the proxies of the environment, because the server is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ApiResponse(NamedTuple):
    """A response; `status` 0 means no response, and `body` is the error then."""

    status: int
    body: Any


def send_request(url: str, body: Any = None, timeout: float = 5.0) -> ApiResponse:
    """Send GET to `url`, or POST with `body`, and return the response. Never raises, even if no server is reachable."""
    data = None if body is None else json.dumps(body).encode()
    prepared = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with _OPENER.open(prepared, timeout=timeout) as response:
            return ApiResponse(response.status, _parse_body(response.read()))
    except urllib.error.HTTPError as error:
        with error:
            return ApiResponse(error.code, _parse_body(error.read()))
    except (OSError, http.client.HTTPException) as error:
        return ApiResponse(0, str(error))


def _parse_body(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")
