"""One API key as files have it: a name, a hash, and limits. The key itself is shown once and stored nowhere."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["ApiKey", "hash_of", "new_key", "require_distinct"]

_PREFIX = "hst-"
_KEY_BYTES = 32
_Count = Annotated[int, Meta(ge=1, le=10**12)]
_Priority = Annotated[int, Meta(ge=0, le=100)]
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
_Model = Annotated[str, Meta(pattern=r'^[^\x00-\x1f\x7f"\\]{1,256}$')]
_Hash = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A key of `[[api.key]]` in a topology, or of `[[key]]` in a key file."""

    name: _Name
    """Stands for the key in logs, in the usage and for policies: letters, digits and `._@-`, at most 64."""
    hash: _Hash
    """`sha256:` and the hash of the key, as `histrio keys create` writes it."""
    admin: bool = False
    """Its requests see the usage and metrics of all keys, and may change the server for all."""
    models: list[_Model] = []
    """Ids of the models that it may use; empty for all."""
    requests_per_minute: _Count | None = None
    """Requests that send something (POST), answered or refused."""
    tokens_per_minute: _Count | None = None
    """Tokens of prompts and answers together."""
    concurrent_requests: _Count | None = None
    """Requests that are generated at the same time."""
    highest_priority: _Priority = 0
    """The most urgent `priority` that its requests may ask for; 0 is the most urgent of all."""


def new_key() -> str:
    """A key that cannot be guessed."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def hash_of(key: bytes) -> str:
    """What is stored of a key. A fast hash will do: a slow one makes it costly to try the passwords that people choose,
    but 2^256 random keys cannot be tried at any speed, and every request has to be hashed."""
    return f"sha256:{sha256(key).hexdigest()}"


def require_distinct(keys: Iterable[ApiKey]) -> None:
    """Raise `ValueError` for two keys of one name, or for one key under two names."""
    names: set[str] = set()
    hashes: set[str] = set()
    for key in keys:
        if key.name in names:
            raise ValueError(f"two keys are named {key.name}; give each a name of its own")
        if key.hash in hashes:
            raise ValueError(f"the key named {key.name} has the hash of another one; create a key for each name")
        names.add(key.name)
        hashes.add(key.hash)
