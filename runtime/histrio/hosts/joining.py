"""The way of a machine into a cluster: it learns the key of the head, shows its token or waits, and is admitted.

The first time a head is met its key is remembered with its address. Ever after the same key has to answer there.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from histrio.errors import WireError
from histrio.hosts.door import Answer, Question, ask
from histrio.hosts.folder import HostFolder
from histrio.hosts.proof import is_proof, proof, token_key
from histrio.net.keys import fingerprint

__all__ = ["DOOR_PORT", "Joining", "Refused", "split_address"]

DOOR_PORT = 3002
_HEADS = "heads.json"
_POLL_S = 2.0


class Refused(WireError):
    """The head does not want this machine; asking again does not help."""


class Joining:
    """Asks at one head's door for one machine. `say` gets sentences for a person."""

    def __init__(
        self,
        folder: HostFolder,
        host: str,
        port: int,
        *,
        name: str,
        token: str = "",
        say: Callable[[str], None] = print,
    ) -> None:
        """Raises `WireError` for what cannot be a token."""
        self._folder = folder
        self._host, self._port, self._name = host, port, name
        self._peer_id = folder.key().peer_id
        self._key = token_key(token) if token else b""
        self._say = say

    async def admitted(self) -> Answer:
        """The head's answer once it admits this machine. Raises `WireError` if it refuses, or is not the one that was
        here before."""
        answer = await self._ask()
        if answer.verdict == "unknown":
            self._say(f"{self._where} is {answer.name}, fingerprint {fingerprint(answer.peer_id)}")
            answer = await self._show_token(answer.peer_id) if self._key else await self._wait(answer)
        if answer.verdict != "admitted":
            raise Refused(f"{answer.name} refuses this machine: {answer.reason}")
        with self._folder.changing(_HEADS, dict[str, str], {}) as heads:
            heads[self._where] = answer.peer_id
        return answer

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._port}"

    async def _ask(self, *, shown: str = "", asks: bool = False) -> Answer:
        question = Question(peer_id=self._peer_id, name=self._name, proof=shown, asks=asks)
        answer = await ask(self._host, self._port, question)
        remembered = self._folder.read(_HEADS, dict[str, str], {}).get(self._where)
        if remembered is not None and remembered != answer.peer_id:
            raise Refused(
                f"another machine than before answers at {self._where}: its fingerprint is "
                f"{fingerprint(answer.peer_id)}, it was {fingerprint(remembered)}; if that is right, remove the line "
                f"from {self._folder.path / _HEADS}"
            )
        return answer

    async def _show_token(self, head: str) -> Answer:
        answer = await self._ask(shown=proof(self._key, "joiner", head, self._peer_id))
        if answer.verdict == "admitted":
            is_head = answer.peer_id == head and is_proof(answer.proof, self._key, "head", head, self._peer_id)
            if not is_head:
                raise Refused(f"what answers at {self._where} does not know the token, so it is not the head")
        return answer

    async def _wait(self, answer: Answer) -> Answer:
        """Until a person has accepted this machine."""
        answer = await self._ask(asks=True)
        if answer.verdict == "waiting":
            self._say(f"this machine is {self._name}, fingerprint {fingerprint(self._peer_id)}; {answer.reason}")
        while answer.verdict == "waiting":
            await anyio.sleep(_POLL_S)
            answer = await self._ask(asks=True)
        return answer


def split_address(text: str) -> tuple[str, int]:
    """`HOST` or `HOST:PORT`. Raises `WireError`."""
    host, colon, port = text.removeprefix("tcp://").removeprefix("http://").rstrip("/").partition(":")
    if not host or (colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise WireError(f"{text[:60]!r} is no address of a head, such as 192.168.1.5:{DOOR_PORT}")
    return host, int(port) if colon else DOOR_PORT
