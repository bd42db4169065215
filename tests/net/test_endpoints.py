from __future__ import annotations

import pytest

from histrio.errors import WireError
from histrio.net.endpoints import MOST_IPC_PATH_BYTES, checked_endpoint


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5000", "tcp://127.3.2.1:0", "ipc:///run/user/0/h/engine.1"])
def test_local_endpoints_pass_unchanged(endpoint: str) -> None:
    assert checked_endpoint(endpoint) == endpoint


def test_localhost_becomes_the_number_the_monitor_reports() -> None:
    assert checked_endpoint("tcp://localhost:80") == "tcp://127.0.0.1:80"


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.168.1.5", "example.org", "[::1]", "", "127.0.0.1.example.org"])
def test_hosts_beyond_loopback_are_refused_until_links_are_encrypted(host: str) -> None:
    with pytest.raises(WireError, match="not encrypted yet"):
        checked_endpoint(f"tcp://{host}:5000")


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("inproc://x", "neither"),
        ("/tmp/x", "neither"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:", "no port"),
        ("tcp://127.0.0.1:65536", "no port"),
        ("tcp://127.0.0.1:\N{SUPERSCRIPT TWO}", "no port"),
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
