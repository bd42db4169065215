from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519
from zmq.utils import z85

from histrio.errors import WireError
from histrio.net.keys import HostKey, curve_key, fingerprint, public_of

SEEDS = st.binary(min_size=32, max_size=32)


@given(SEEDS)
def test_the_curve_key_follows_from_the_peer_id_alone(seed: bytes) -> None:
    """Judge: libsodium's own conversion, and ZeroMQ's public key of the secret."""
    key = HostKey(seed)
    public = curve_key(key.peer_id)
    assert public == public_of(key.secret)
    assert public == z85.encode(crypto_sign_ed25519_pk_to_curve25519(bytes.fromhex(key.peer_id)))


def test_one_seed_is_one_machine() -> None:
    assert HostKey(bytes(32)).peer_id == HostKey(bytes(32)).peer_id != HostKey(bytes(31) + b"\1").peer_id
    # The first test vector of RFC 8032, section 7.1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert HostKey(seed).peer_id == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed: bytes) -> None:
    with pytest.raises(WireError, match="32 bytes"):
        HostKey(seed)


def test_without_its_package_no_machine_has_a_key_and_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    with pytest.raises(WireError, match="pip install pynacl"):
        HostKey(bytes(32))


@pytest.mark.parametrize("text", ["", "ab", "AB" * 32, "ab" * 33, "zz" * 32, "ab" * 32 + "\n"])
def test_what_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="64 digits"):
        curve_key(text)


@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 1])
def test_points_that_are_no_keys_are_refused(y: int) -> None:
    with pytest.raises(WireError, match="no key"):
        curve_key(y.to_bytes(32, "little").hex())


def test_fingerprints_are_short_and_differ() -> None:
    found = {fingerprint(HostKey(bytes([index]) * 32).peer_id) for index in range(50)}
    assert len(found) == 50
    for each in found:
        assert [len(group) for group in each.split("-")] == [5, 5, 5, 5]
        assert not set(each) & set("l1o0"), "letters that look alike"
