"""Addresses that jobs may reach on behalf of API clients."""

import pytest

from jobworker.domain.errors import ConfigurationError
from jobworker.domain.jobs.egress import EgressPolicy, is_nonstandard_ipv4


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "2a00::1"])
def test_public_addresses_allowed(address: str) -> None:
    assert EgressPolicy([]).is_allowed("example.com", 443, address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001::1",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "100::1",
    ],
)
def test_non_public_addresses_rejected_unless_host_listed(address: str) -> None:
    assert not EgressPolicy([]).is_allowed("example.com", 80, address)
    assert EgressPolicy(["example.com"]).is_allowed("EXAMPLE.com.", 80, address)


@pytest.mark.parametrize(
    ("listed", "host", "port", "address", "allowed"),
    [
        ("10.1.0.0/16", "a", 80, "10.1.2.3", True),
        ("10.1.0.0/16", "a", 80, "10.2.2.3", False),
        ("10.1.0.0/16:443", "a", 443, "10.1.2.3", True),
        ("10.1.0.0/16:443", "a", 80, "10.1.2.3", False),
        ("127.0.0.1", "localhost", 80, "127.0.0.1", True),
        ("127.0.0.1", "localhost", 80, "::ffff:127.0.0.1", True),
        ("127.0.0.1", "localhost", 80, "127.0.0.2", False),
        ("127.0.0.1:9", "localhost", 80, "127.0.0.1", False),
        ("[::1]:8080", "localhost", 8080, "::1", True),
        ("[::1]:8080", "localhost", 80, "::1", False),
        ("fd00::/8", "a", 80, "fd12::1", True),
        ("intranet:8443", "intranet", 8443, "10.0.0.1", True),
        ("intranet:8443", "intranet", 443, "10.0.0.1", False),
        ("intranet", "evil-intranet", 443, "10.0.0.1", False),
        ("*.internal.example", "a.b.internal.example", 443, "10.0.0.1", True),
        ("*.internal.example", "internal.example", 443, "10.0.0.1", False),
        ("*.internal.example", "evilinternal.example", 443, "10.0.0.1", False),
    ],
)
def test_listed_entries_allow_matching_targets(listed: str, host: str, port: int, address: str, allowed: bool) -> None:
    assert EgressPolicy([listed]).is_allowed(host, port, address) is allowed


@pytest.mark.parametrize(
    "entry",
    ["https://intranet", "10.0.0.0/99", "a:b", "a:0", "a:65536", "*", "2130706433", "a b", "[::1", "[::1]x", ""],
)
def test_invalid_egress_entry_rejected(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"JOBWORKER_EGRESS=.* must be a network"):
        EgressPolicy([entry])


@pytest.mark.parametrize(
    "host", ["2130706433", "0", "127.1", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "1.2.3"]
)
def test_nonstandard_ipv4_spellings_detected(host: str) -> None:
    assert is_nonstandard_ipv4(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "example.com", "1.example", "0x.example", "a1"])
def test_standard_hosts_are_not_nonstandard_ipv4(host: str) -> None:
    assert not is_nonstandard_ipv4(host)
