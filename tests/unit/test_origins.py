"""Which requests are answered, by the host that they are for and the site that they come from."""

import pytest

from jobworker.api.origins import CrossSiteRequest, OriginPolicy, UnknownHost

_ORIGINS = OriginPolicy(["jobs.example.com", "jobs.example.org:8443", "*.example.net", "[fd00::1]"])


def check_request(method: str = "POST", path: str = "/api/v1/jobs", **headers: str) -> None:
    given = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    _ORIGINS.check(method, path, given)


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
def test_own_names_are_answered_in_any_spelling(host: str) -> None:
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
def test_other_names_are_refused(host: str) -> None:
    with pytest.raises(UnknownHost, match="JOBWORKER_HOSTS"):
        check_request(host=host)
    check_request(host=host, path="/healthz")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "INVENTED"])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_pages_of_other_sites_are_refused(method: str, site: str) -> None:
    with pytest.raises(CrossSiteRequest):
        check_request(method, sec_fetch_site=site, sec_fetch_mode="cors")


def test_a_link_of_another_site_may_lead_here_but_change_nothing() -> None:
    check_request("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    with pytest.raises(CrossSiteRequest):
        check_request("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://localhost", "evil://localhost:8000", ""]
)
def test_browsers_without_fetch_metadata_are_known_by_the_origin(origin: str) -> None:
    with pytest.raises(CrossSiteRequest):
        check_request(origin=origin)
    check_request("GET", origin=origin)


def test_own_pages_and_programs_are_answered() -> None:
    check_request()
    check_request(sec_fetch_site="same-origin", origin="http://localhost:8000")
    check_request(sec_fetch_site="none")
    check_request(origin="http://localhost:8000")
    check_request(host="jobs.example.com", origin="https://jobs.example.com")
    check_request("OPTIONS", sec_fetch_site="cross-site", origin="https://evil.example")


def test_a_request_without_a_host_is_told_so() -> None:
    with pytest.raises(UnknownHost, match="the request has no Host header"):
        check_request(host="")
