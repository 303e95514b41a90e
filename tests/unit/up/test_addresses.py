"""Pairs of host and port."""

import socket

import pytest

from jobworker.domain.errors import ConfigurationError
from jobworker.settings import Settings
from jobworker.up import addresses
from jobworker.up.addresses import Address


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        ("0.0.0.0:80", ("0.0.0.0", 80), "http://127.0.0.1:80"),
        ("[::1]:8000", ("::1", 8000), "http://[::1]:8000"),
        ("[::]:8000", ("::", 8000), "http://[::1]:8000"),
        ("localhost:8000", ("127.0.0.1", 8000), "http://127.0.0.1:8000"),
    ],
)
def test_address_parsed_to_host_port_and_url(text: str, address: tuple[str, int], url: str) -> None:
    parsed = addresses.parse(text, "JOBWORKER_BIND")

    assert parsed == address
    assert parsed.url == url


@pytest.mark.parametrize(
    "text", ["", "8000", "localhost", ":8000", "a:b", "a:99999", "a:0", "a:1", "1.2.3.4:1/x", "[::1"]
)
def test_invalid_address_rejected_with_variable_name(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"JOBWORKER_BIND=.* must be an IP address and a port, such as 127\.0\.0\.1:8000"
    ):
        addresses.parse(text, "JOBWORKER_BIND")


def test_address_in_use_rejected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is in use .* set JOBWORKER_BIND"):
            addresses.require_free(Address("127.0.0.1", port), "JOBWORKER_BIND")

    addresses.require_free(Address("127.0.0.1", port), "JOBWORKER_BIND")


def test_address_of_another_machine_rejected() -> None:
    with pytest.raises(ConfigurationError, match=r"nothing can listen on 192\.0\.2\.1:8000"):
        addresses.require_free(Address("192.0.2.1", 8000), "JOBWORKER_BIND")


def test_free_port_search_prefers_given_port() -> None:
    port = addresses.find_free_port()

    assert addresses.find_free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert addresses.find_free_port(port) != port


def test_public_bind_address_requires_allowed_hosts() -> None:
    open_bind = {"JOBWORKER_BIND": "0.0.0.0:8000"}
    with pytest.raises(ConfigurationError, match=r"JOBWORKER_BIND=0\.0\.0\.0:8000 .* no accounts.* JOBWORKER_HOSTS"):
        addresses.require_hosts(Settings.from_environment(open_bind))
    named = Settings.from_environment({**open_bind, "JOBWORKER_HOSTS": "jobs.example.com, *.example.net"})
    addresses.require_hosts(named)
    assert addresses.list_allowed_hosts(named) == ["jobs.example.com", "*.example.net"]
    own = Settings.from_environment({"JOBWORKER_BIND": "[fd00::1]:8000", "JOBWORKER_HOSTS": "a"})
    assert addresses.list_allowed_hosts(own) == ["a", "[fd00::1]"]
    addresses.require_hosts(Settings.from_environment({"JOBWORKER_BIND": "127.0.0.2:8000"}))
