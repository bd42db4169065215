from __future__ import annotations

import pytest

from histrio.errors import WireError
from histrio.net.endpoints import MOST_IPC_PATH_BYTES, checked_endpoint, curve_endpoint, peer_of, socket_address

ID = "ab" * 32


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5000",
        "tcp://127.3.2.1:0",
        "ipc:///run/user/0/h/engine.1",
        "curve://192.168.1.20:0",
        f"curve://10.0.0.1:5000/{ID}",
    ],
)
def test_endpoints_pass_unchanged(endpoint: str) -> None:
    assert checked_endpoint(endpoint) == endpoint


def test_localhost_becomes_the_number_the_monitor_reports() -> None:
    assert checked_endpoint("tcp://localhost:80") == "tcp://127.0.0.1:80"


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.168.1.5", "example.org", "[::1]", "", "127.0.0.1.example.org"])
def test_plain_tcp_stays_on_the_loopback_interface(host: str) -> None:
    with pytest.raises(WireError, match="is not encrypted: use curve://"):
        checked_endpoint(f"tcp://{host}:5000")


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("inproc://x", "none of"),
        ("/tmp/x", "none of"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:", "no port"),
        ("tcp://127.0.0.1:65536", "no port"),
        ("tcp://127.0.0.1:\N{SUPERSCRIPT TWO}", "no port"),
        ("curve://10.0.0.1", "no port"),
        ("curve://studio.local:5000", "no IPv4 address"),
        ("curve://[::1]:5000", "no IPv4 address"),
        (f"curve://10.0.0.1:5000/{ID[1:]}", "peer id"),
        (f"curve://10.0.0.1:5000/{ID}/x", "peer id"),
        ("ipc://relative", "not absolute"),
        ("ipc:///a\0b", "not absolute"),
        ("ipc://@abstract", "not absolute"),
    ],
)
def test_malformed_endpoints_are_refused_with_the_reason(endpoint: str, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        checked_endpoint(endpoint)


def test_too_long_a_socket_path_is_refused_with_the_remedy() -> None:
    longest = "/" + "x" * (MOST_IPC_PATH_BYTES - 1)
    assert checked_endpoint(f"ipc://{longest}") == f"ipc://{longest}"
    with pytest.raises(WireError, match="shorter runtime folder"):
        checked_endpoint(f"ipc://{longest}x")


def test_a_curve_endpoint_has_an_address_and_whose_key_has_to_answer() -> None:
    endpoint = curve_endpoint("tcp://10.0.0.1:5000", ID)
    assert (socket_address(endpoint), peer_of(endpoint)) == ("tcp://10.0.0.1:5000", ID)
    assert peer_of("curve://10.0.0.1:5000") == peer_of("ipc:///a/b") == ""
    assert socket_address("ipc:///a/b") == "ipc:///a/b"
