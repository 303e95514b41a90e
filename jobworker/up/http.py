"""A few requests to our own API, with nothing but the standard library."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

#: Proxies of the environment are not for a server on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ApiResponse(NamedTuple):
    """What came back; `status` 0: nothing did."""

    status: int
    body: Any


def send_request(url: str, body: Any = None, timeout: float = 5.0) -> ApiResponse:
    """GET `url`, or POST `body` to it. Never raises: an unreachable server is an answer too."""
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
