"""A few requests to our own API, with nothing but the standard library."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

#: Proxies of the environment are not for a server on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Answer(NamedTuple):
    """What came back; `status` 0: nothing did."""

    status: int
    body: Any


def request(url: str, body: Any = None, timeout: float = 5.0) -> Answer:
    """GET `url`, or POST `body` to it. Never raises: an unreachable server is an answer too."""
    data = None if body is None else json.dumps(body).encode()
    prepared = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with _OPENER.open(prepared, timeout=timeout) as response:
            return Answer(response.status, _parse(response.read()))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _parse(error.read()))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error))


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")
