"""The identity of a machine: one Ed25519 key, from which the CURVE key of its links follows.

The *peer id* is the public key in hex. From it alone anyone derives the CURVE key that a link to this machine must
answer with, so a peer id is all that has to be known of a machine before it is dialled.
"""

from __future__ import annotations

import hashlib
import re

import msgspec
import zmq
from zmq.utils import z85

from histrio.errors import WireError

__all__ = ["LETTERS", "PEER_ID", "HostKey", "LinkKeys", "curve_key", "fingerprint", "grouped", "public_of"]

PEER_ID = re.compile(r"[0-9a-f]{64}")
_PRIME = 2**255 - 19
_SEED_BYTES = 32
_GROUPS, _GROUP = 4, 5
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 of them, without those that look alike."""


class LinkKeys(msgspec.Struct, frozen=True):
    """What a process needs for encrypted links. With the secret a process can act as this machine."""

    peer_id: str
    """Of this machine."""
    secret: str
    """Its CURVE secret, in z85."""
    admitted: list[str] = []
    """Peer ids of the machines that may dial this process."""


class HostKey:
    """The key pair of one machine, made of a seed of 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        try:
            from nacl.bindings import crypto_sign_seed_keypair
        except ImportError:
            raise WireError("links to other machines need PyNaCl, which is not installed: pip install pynacl") from None

        if len(seed) != _SEED_BYTES:
            raise WireError(f"the seed of a machine's key has {_SEED_BYTES} bytes, not {len(seed)}")
        public, _ = crypto_sign_seed_keypair(seed)
        self.peer_id = public.hex()
        # What Ed25519 multiplies its base point with is a CURVE secret as it stands (RFC 8032, 5.1.5; RFC 7748, 5).
        self.secret = z85.encode(hashlib.sha512(seed).digest()[:32])

    def links(self, admitted: list[str]) -> LinkKeys:
        """What a process of this machine gets."""
        return LinkKeys(self.peer_id, self.secret.decode(), admitted)


def curve_key(peer_id: str) -> bytes:
    """The CURVE public key of the machine with this id, in z85. Raises `WireError` for what is no peer id.

    The birational map of RFC 7748, 4.1: u = (1 + y) / (1 - y).
    """
    if not PEER_ID.fullmatch(peer_id):
        raise WireError("a peer id has 64 digits of 0-9 and a-f")

    y = int.from_bytes(bytes.fromhex(peer_id), "little") & (2**255 - 1)
    if y >= _PRIME or y in (0, 1, _PRIME - 1):
        raise WireError("this peer id is no key")
    u = (1 + y) * pow(1 - y, -1, _PRIME) % _PRIME
    return z85.encode(u.to_bytes(32, "little"))


def public_of(secret: bytes) -> bytes:
    """The CURVE public key that belongs to a secret, both in z85."""
    public: bytes = zmq.curve_public(secret)
    return public


def fingerprint(peer_id: str) -> str:
    """A peer id in short, for people to compare: four groups of five letters, 100 bits of its SHA-256."""
    number = int.from_bytes(hashlib.sha256(bytes.fromhex(peer_id)).digest()[:13], "big") >> 4
    return grouped("".join(LETTERS[number >> 5 * index & 31] for index in range(_GROUPS * _GROUP)), _GROUP)


def grouped(letters: str, size: int) -> str:
    """Letters in groups of this size, as people read and type them."""
    return "-".join(letters[at : at + size] for at in range(0, len(letters), size))
