"""How two machines show each other that they know the same token, without saying it.

Each sends a keyed hash over both peer ids. A machine in the middle, which would have to use its own peer ids, cannot
make one. The key is slow to compute, so that a token of 60 bits cannot be found by trying.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from histrio.errors import WireError
from histrio.net.keys import LETTERS, grouped

__all__ = ["is_proof", "new_token", "proof", "token_key"]

_GROUPS, _GROUP = 3, 4
_SALT = b"histrio join token"


def new_token() -> str:
    """Three groups of four letters: 60 bits, short enough to be typed."""
    return grouped("".join(secrets.choice(LETTERS) for _ in range(_GROUPS * _GROUP)), _GROUP)


def token_key(token: str) -> bytes:
    """The key of a token, 32 bytes, after about 50 ms. Raises `WireError` for what cannot be a token."""
    letters = token.strip().lower().replace("-", "").replace(" ", "")
    if len(letters) != _GROUPS * _GROUP or set(letters) - set(LETTERS):
        raise WireError(f"a token has {_GROUPS} groups of {_GROUP} letters or digits, such as abcd-efgh-2345")
    return hashlib.scrypt(letters.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)


def proof(key: bytes, role: str, head: str, joiner: str) -> str:
    """What the `head` or the `joiner` (its role) sends: it knows the token and takes these for the two machines."""
    return hmac.new(key, f"{role} {head} {joiner}".encode(), hashlib.sha256).hexdigest()


def is_proof(given: str, key: bytes, role: str, head: str, joiner: str) -> bool:
    """Whether it is that of the other side; takes the same time for every wrong one."""
    return hmac.compare_digest(given.encode(), proof(key, role, head, joiner).encode())
