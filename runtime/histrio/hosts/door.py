"""The door of a cluster: where machines that are not known yet ask to join. One question and one answer a connection.

Nothing secret is said here, so that it needs no encryption: the asker learns the head's peer id and proves that it
knows a token, or waits for a person. All else goes over links that need both keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Literal

import anyio
import msgspec
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from msgspec import Meta

from histrio import __version__
from histrio.errors import WireError
from histrio.hosts.members import Member, Members
from histrio.messages import PROTOCOL_VERSION
from histrio.net.keys import PEER_ID, fingerprint

__all__ = ["Answer", "Door", "Question", "ask"]

log = logging.getLogger(__name__)

_MOST_BYTES = 4096
_MOST_VISITORS = 64
_PATIENCE_S = 5.0
"""Seconds that a visitor has for its question, and an asker gives the door for its answer."""
_SAY_EVERY_S = 60.0
Line = Annotated[str, Meta(max_length=64, pattern=r"^[\w .@-]*$")]


class Question(msgspec.Struct, kw_only=True):
    """What a machine says at the door."""

    protocol: int = PROTOCOL_VERSION
    version: Line = __version__
    peer_id: Annotated[str, Meta(pattern=f"^{PEER_ID.pattern}$")]
    name: Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^[\w.-]+$")]
    proof: Annotated[str, Meta(max_length=64)] = ""
    """Of a token; without one the machine asks for the peer id of the head."""
    asks: bool = False
    """Without a token: it waits until a person accepts it."""


class Answer(msgspec.Struct, kw_only=True):
    """What the head says to it."""

    verdict: Literal["admitted", "waiting", "unknown", "refused"]
    peer_id: str
    """Of the head."""
    name: str
    """Of the head."""
    reason: str = ""
    proof: str = ""
    """That the head knows the token, too."""
    port: int = 0
    """Where its encrypted links are, on the same address; for machines that are admitted."""
    member_name: str = ""
    """What the machine is called here."""


class Door:
    """Answers visitors on one address until it is cancelled."""

    def __init__(
        self,
        members: Members,
        *,
        peer_id: str,
        name: str,
        links_port: int,
        is_open: bool = False,
        on_admitted: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_open`: every machine is admitted. `on_admitted` is called before a machine hears that it is."""
        self._members = members
        self._peer_id, self._name, self._port = peer_id, name, links_port
        self._is_open = is_open
        self._on_admitted = on_admitted
        self._said: dict[str, float] = {}
        """Peer id → when its request was logged last."""

    async def run(self, host: str, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen; the task's status is the port. Raises `WireError` if it is taken."""
        try:
            listener = await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=_MOST_VISITORS)
        except OSError as error:
            raise WireError(f"machines cannot join at {host}:{port}: {error.strerror or error}") from None

        limiter = anyio.CapacityLimiter(_MOST_VISITORS)

        async def visit(stream: SocketStream) -> None:
            async with stream:
                if limiter.available_tokens < 1:
                    return
                async with limiter:
                    await self._visit(stream)

        async with listener:
            task_status.started(listener.extra(SocketAttribute.local_port))
            await listener.serve(visit)

    async def _visit(self, stream: SocketStream) -> None:
        try:
            with anyio.fail_after(_PATIENCE_S):
                question = msgspec.json.decode(await _line(stream), type=Question)
                address = str(stream.extra(SocketAttribute.remote_address)[0])
                # It reads and writes files, and compares with keys that are slow to make.
                answer = await anyio.to_thread.run_sync(self.answer, question, address)
                if answer.verdict == "admitted":
                    self._on_admitted()
                await stream.send(msgspec.json.encode(answer) + b"\n")
        except (TimeoutError, msgspec.MsgspecError, anyio.BrokenResourceError, anyio.EndOfStream, UnicodeError):
            log.debug("a visitor of the door said nothing that makes sense")

    def answer(self, question: Question, address: str = "") -> Answer:
        """What becomes of one question."""
        if question.protocol != PROTOCOL_VERSION:
            return self._say(
                "refused",
                f"{self._name} runs histrio {__version__} (protocol {PROTOCOL_VERSION}), {question.name} runs "
                f"{question.version} (protocol {question.protocol}); install the same version on both",
            )

        asking = Member(peer_id=question.peer_id, name=question.name, address=address)
        known = self._members.find(question.peer_id)
        try:
            shown = ""
            if question.proof:
                shown = self._members.admit_by_token(self._peer_id, asking, question.proof)
                if not shown and known is None:
                    return self._say(
                        "refused", "the token is wrong, used up or expired; `histrio hosts token` makes one"
                    )
            elif known is None and self._is_open and question.asks:
                self._members.ask(asking)
                self._members.accept(fingerprint(asking.peer_id))
            known = self._members.find(question.peer_id)
            if known is not None:
                return self._say("admitted", proof=shown, port=self._port, member_name=known.name)
            if not question.asks:
                return self._say("unknown", "this machine is not known here")
            self._members.ask(asking)
        except WireError as error:
            return self._say("refused", str(error))

        self._tell(asking)
        return self._say("waiting", f"{self._name} has to accept it: histrio hosts accept {question.name}")

    def _tell(self, asking: Member) -> None:
        """Once a minute for each, however often it asks; strangers that take many names are few at a time."""
        now = asking.at
        self._said = {peer_id: at for peer_id, at in self._said.items() if now - at < _SAY_EVERY_S}
        if asking.peer_id not in self._said and len(self._said) < _MOST_VISITORS:
            self._said[asking.peer_id] = now
            mark = fingerprint(asking.peer_id)
            log.warning(
                "%s (%s) wants to join, fingerprint %s: histrio hosts accept %s",
                asking.name,
                asking.address,
                mark,
                asking.name,
            )

    def _say(
        self,
        verdict: Literal["admitted", "waiting", "unknown", "refused"],
        reason: str = "",
        *,
        proof: str = "",
        port: int = 0,
        member_name: str = "",
    ) -> Answer:
        return Answer(
            verdict=verdict,
            peer_id=self._peer_id,
            name=self._name,
            reason=reason,
            proof=proof,
            port=port,
            member_name=member_name,
        )


async def ask(host: str, port: int, question: Question) -> Answer:
    """Put a question to the door at this address. Raises `WireError` if no head answers there."""
    try:
        with anyio.fail_after(_PATIENCE_S):
            async with await anyio.connect_tcp(host, port) as stream:
                await stream.send(msgspec.json.encode(question) + b"\n")
                answer = msgspec.json.decode(await _line(stream), type=Answer)
    except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise WireError(f"no head answers at {host}:{port}: {_reason(error)}") from None
    except msgspec.MsgspecError:
        raise WireError(f"what answers at {host}:{port} is no head of a cluster") from None

    if not PEER_ID.fullmatch(answer.peer_id):
        raise WireError(f"the head at {host}:{port} gives no peer id")
    return answer


async def _line(stream: SocketStream) -> bytes:
    """Up to the end of a line. Raises `EndOfStream` if none comes within `_MOST_BYTES`."""
    data = b""
    while b"\n" not in data:
        if len(data) >= _MOST_BYTES:
            raise anyio.EndOfStream
        data += await stream.receive(_MOST_BYTES - len(data))
    return data.partition(b"\n")[0]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came within {_PATIENCE_S:g} s"
    return getattr(error, "strerror", None) or str(error) or "the connection was closed"
