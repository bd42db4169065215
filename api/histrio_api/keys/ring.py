"""The keys of one endpoint: which of them a request sent, and what is left of its limits.

Keys of a key file are read again when the file changes. A file that cannot be read any more changes nothing: the keys
read before stay, and the log says why.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from hashlib import blake2s, sha256
from pathlib import Path
from time import monotonic

import anyio
from anyio import to_thread

from histrio.errors import TopologyError
from histrio_api.keys.key import ApiKey, hash_of, require_distinct
from histrio_api.keys.key_file import read_keys
from histrio_api.keys.limits import KeyLimits

__all__ = ["KeyRing", "key_label"]

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often it is looked whether the key file has changed."""

_Signature = tuple[int, int, int]


class KeyRing:
    """All keys. Without any the endpoint asks for none, unless there is a key file, which may be empty for now."""

    def __init__(
        self,
        plain: Sequence[str] = (),
        hashed: Sequence[ApiKey] = (),
        file: Path | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Reads the file. Raises `TopologyError`."""
        self._own = [*(_unlimited(key.encode()) for key in plain), *hashed]
        self._file = file
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._by_name: dict[str, KeyLimits] = {}
        self._by_digest: dict[bytes, KeyLimits] = {}
        self._unknown = KeyLimits(ApiKey(name="unknown", hash=""), clock)
        self._seen = _signature(file)
        self._replace([] if file is None else read_keys(file))

    @property
    def asks(self) -> bool:
        """Whether requests need a key."""
        return bool(self._by_name) or self._file is not None

    def find(self, sent: bytes) -> KeyLimits | None:
        """The key that was sent, if it is one. The table is of digests under a secret of this process: how long it
        takes to find one, or none, says nothing of any key."""
        return self._by_digest.get(self._digest(sha256(sent).digest()))

    def limits_of(self, name: str) -> KeyLimits:
        """Of the key of this name. There are none without a key, nor for one that was revoked in the meantime."""
        return self._by_name.get(name, self._unknown)

    async def watch(self) -> None:
        """Read the key file again whenever it changes, until cancelled."""
        while self._file is not None:
            await anyio.sleep(LOOK_S)
            await self._look(self._file)

    async def _look(self, file: Path) -> None:
        seen = await to_thread.run_sync(_signature, file)
        if seen == self._seen:
            return

        self._seen = seen
        try:
            self._replace(await to_thread.run_sync(read_keys, file))
        except TopologyError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("%s was read again: %d API keys", file, len(self._by_name))

    def _replace(self, of_file: Sequence[ApiKey]) -> None:
        """Raises `TopologyError` for a name or a key that is in two places."""
        keys = [*self._own, *of_file]
        try:
            require_distinct(keys)
        except ValueError as error:
            raise TopologyError("", f"{self._file}: {error}" if self._file else str(error)) from None

        known = self._by_name
        by_name = {key.name: known.get(key.name) or KeyLimits(key, self._clock) for key in keys}
        for key in keys:
            by_name[key.name].change(key)
        self._by_digest = {self._digest(_stored_digest(key)): by_name[key.name] for key in keys}
        self._by_name = by_name

    def _digest(self, digest: bytes) -> bytes:
        return blake2s(digest, key=self._secret).digest()


def key_label(key: bytes) -> str:
    """The name of a key of `api-keys`, which have none: always the same for a key, and no way back to it."""
    return blake2s(key, digest_size=8, person=b"api-key").hexdigest()


def _unlimited(key: bytes) -> ApiKey:
    return ApiKey(name=key_label(key), hash=hash_of(key))


def _stored_digest(key: ApiKey) -> bytes:
    return bytes.fromhex(key.hash.partition(":")[2])


def _signature(file: Path | None) -> _Signature | None:
    """Changes when the file does; None if there is none."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
