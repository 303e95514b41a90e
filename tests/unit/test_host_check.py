"""Requests that are allowed, by their host and by the site that they come from."""

import pytest

from jobworker.api.host_check import CrossSiteRequest, OriginPolicy, UnknownHost

_ORIGINS = OriginPolicy(["jobs.example.com", "jobs.example.org:8443", "*.example.net", "[fd00::1]"])


def check_request(method: str = "POST", path: str = "/api/v1/jobs", **headers: str) -> None:
    sent_headers = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    _ORIGINS.check(method, path, sent_headers)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "[::1]",
        "jobs.example.com",
        "jobs.example.com.",
        "jobs.example.com:9",
        "jobs.example.org:8443",
        "a.b.example.net:80",
        "[fd00::1]:8000",
    ],
)
def test_allowed_host_accepted_in_any_spelling(host: str) -> None:
    check_request(host=host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost..",
        "rebind.evil.example:8000",
        "jobs.example.org",
        "jobs.example.org:80",
        "example.net",
        "evilexample.net",
        "jobs.example.com.evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[fd00::2]",
        "127.0.0.1:8000:evil",
        "localhost,evil",
    ],
)
def test_unknown_host_rejected_except_for_healthz(host: str) -> None:
    with pytest.raises(UnknownHost, match="JOBWORKER_HOSTS"):
        check_request(host=host)
    check_request(host=host, path="/healthz")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "INVENTED"])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_cross_site_request_rejected(method: str, site: str) -> None:
    with pytest.raises(CrossSiteRequest):
        check_request(method, sec_fetch_site=site, sec_fetch_mode="cors")


def test_cross_site_navigation_allowed_only_for_get() -> None:
    check_request("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    with pytest.raises(CrossSiteRequest):
        check_request("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://localhost", "evil://localhost:8000", ""]
)
def test_foreign_origin_rejected_without_fetch_metadata(origin: str) -> None:
    with pytest.raises(CrossSiteRequest):
        check_request(origin=origin)
    check_request("GET", origin=origin)


def test_same_origin_and_non_browser_requests_allowed() -> None:
    check_request()
    check_request(sec_fetch_site="same-origin", origin="http://localhost:8000")
    check_request(sec_fetch_site="none")
    check_request(origin="http://localhost:8000")
    check_request(host="jobs.example.com", origin="https://jobs.example.com")
    check_request("OPTIONS", sec_fetch_site="cross-site", origin="https://evil.example")


def test_request_without_host_rejected() -> None:
    with pytest.raises(UnknownHost, match="the request has no Host header"):
        check_request(host="")
