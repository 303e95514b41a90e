"""Which requests are answered, by the host that they are for and the site that they come from."""

import pytest

from jobworker.api.origins import CrossSite, Origins, UnknownHost

_ORIGINS = Origins(["jobs.example.com", "jobs.example.org:8443", "*.example.net", "[fd00::1]"])


def check(method: str = "POST", path: str = "/api/v1/jobs", **headers: str) -> None:
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
    check(host=host)


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
        check(host=host)
    check(host=host, path="/healthz")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "INVENTED"])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_pages_of_other_sites_are_refused(method: str, site: str) -> None:
    with pytest.raises(CrossSite):
        check(method, sec_fetch_site=site, sec_fetch_mode="cors")


def test_a_link_of_another_site_may_lead_here_but_change_nothing() -> None:
    check("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    with pytest.raises(CrossSite):
        check("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://localhost", "evil://localhost:8000", ""]
)
def test_browsers_without_fetch_metadata_are_known_by_the_origin(origin: str) -> None:
    with pytest.raises(CrossSite):
        check(origin=origin)
    check("GET", origin=origin)


def test_own_pages_and_programs_are_answered() -> None:
    check()
    check(sec_fetch_site="same-origin", origin="http://localhost:8000")
    check(sec_fetch_site="none")
    check(origin="http://localhost:8000")
    check(host="jobs.example.com", origin="https://jobs.example.com")
    check("OPTIONS", sec_fetch_site="cross-site", origin="https://evil.example")


def test_a_request_without_a_host_is_told_so() -> None:
    with pytest.raises(UnknownHost, match="the request has no Host header"):
        check(host="")
