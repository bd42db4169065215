"""Joining over a real socket: tokens, persons, strangers, and machines in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from histrio.errors import WireError
from histrio.hosts.door import Answer, Door, Question, ask
from histrio.hosts.folder import host_folder
from histrio.hosts.joining import Joining, Refused, split_address
from histrio.hosts.members import Members
from histrio.messages import PROTOCOL_VERSION
from histrio.net.keys import HostKey, fingerprint
from histrio.testing.wait import eventually_async

pytestmark = pytest.mark.anyio

HEAD = HostKey(bytes(32)).peer_id


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def opened(members: Members, *, peer_id: str = HEAD, is_open: bool = False) -> AsyncIterator[int]:
    """A door on a free port."""
    async with anyio.create_task_group() as tasks:
        door = Door(members, peer_id=peer_id, name="den", links_port=4000, is_open=is_open)
        yield await tasks.start(door.run, "127.0.0.1", 0)
        tasks.cancel_scope.cancel()


def joining(
    folder: Path, port: int, *, token: str = "", name: str = "studio", said: list[str] | None = None
) -> Joining:
    heard = [] if said is None else said
    return Joining(host_folder(folder), "127.0.0.1", port, name=name, token=token, say=heard.append)


async def test_a_token_admits_for_good(members: Members, tmp_path: Path) -> None:
    async with opened(members) as port:
        said: list[str] = []
        answer = await joining(tmp_path / "s", port, token=members.make_token(valid_s=60), said=said).admitted()
        assert (answer.verdict, answer.port, answer.name) == ("admitted", 4000, "den")
        assert said == [f"127.0.0.1:{port} is den, fingerprint {fingerprint(HEAD)}"]
        again = await joining(tmp_path / "s", port).admitted()
        assert again.verdict == "admitted", "without a token, since its key is known"
    assert [each.name for each in members.all()] == ["studio"]


async def test_without_a_token_a_person_accepts(
    members: Members, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histrio.hosts.joining._POLL_S", 0.01)
    said: list[str] = []
    async with opened(members) as port, anyio.create_task_group() as tasks:
        answers: list[Answer] = []

        async def join() -> None:
            answers.append(await joining(tmp_path / "s", port, said=said).admitted())

        tasks.start_soon(join)
        await eventually_async(lambda: len(said) == 2)
        assert not answers
        members.accept("studio")
        await eventually_async(lambda: answers)
    assert "histrio hosts accept studio" in said[1]
    asked = [record.message for record in caplog.records if "wants to join" in record.message]
    assert len(asked) == 1, "once a minute, however often it asks"
    assert fingerprint(members.all()[0].peer_id) in asked[0]


async def test_an_open_door_admits_every_machine(members: Members, tmp_path: Path) -> None:
    async with opened(members, is_open=True) as port:
        assert (await joining(tmp_path / "s", port).admitted()).verdict == "admitted"
    assert [each.name for each in members.all()] == ["studio"]


async def test_a_wrong_token_is_refused(members: Members, tmp_path: Path) -> None:
    members.make_token(valid_s=60)
    async with opened(members) as port:
        with pytest.raises(Refused, match="wrong, used up or expired"):
            await joining(tmp_path / "s", port, token="abcd-efgh-2345").admitted()
    assert members.all() == []


async def test_another_version_is_refused_by_name(members: Members) -> None:
    async with opened(members) as port:
        question = Question(peer_id=HostKey(bytes([1]) * 32).peer_id, name="studio", protocol=1, version="0.0.1")
        answer = await ask("127.0.0.1", port, question)
    assert answer.verdict == "refused"
    assert f"protocol {PROTOCOL_VERSION}" in answer.reason
    assert "studio runs 0.0.1 (protocol 1)" in answer.reason


async def test_a_machine_in_the_middle_that_does_not_know_the_token_is_found_out(
    members: Members, tmp_path: Path
) -> None:
    """It answers as a head of its own and admits all."""

    class Impostor(Door):
        def answer(self, question: Question, address: str = "") -> Answer:
            verdict = "admitted" if question.proof else "unknown"
            return Answer(verdict=verdict, peer_id=HEAD, name="den", proof="0" * 64, port=1)  # type: ignore[arg-type]

    async with anyio.create_task_group() as tasks:
        port = await tasks.start(Impostor(members, peer_id=HEAD, name="den", links_port=1).run, "127.0.0.1", 0)
        with pytest.raises(Refused, match="does not know the token"):
            await joining(tmp_path / "s", port, token="abcd-efgh-2345").admitted()
        tasks.cancel_scope.cancel()


async def test_a_head_with_another_key_than_before_is_refused(members: Members, tmp_path: Path) -> None:
    async with opened(members) as port:
        await joining(tmp_path / "s", port, token=members.make_token(valid_s=60)).admitted()
    other = HostKey(bytes([9]) * 32).peer_id
    async with anyio.create_task_group() as tasks:
        await tasks.start(Door(members, peer_id=other, name="den", links_port=1).run, "127.0.0.1", port)
        with pytest.raises(Refused, match="another machine than before"):
            await joining(tmp_path / "s", port).admitted()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "spoken",
    [
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{}\n",
        b'{"peer_id": "' + b"a" * 64 + b'", "name": "../x"}\n',
        b'{"peer_id": "' + b"a" * 64 + b'", "name": "' + b"x" * 41 + b'"}\n',
        b'{"peer_id": "' + b"a" * 63 + b'", "name": "x"}\n',
        b"[" * 4000 + b"\n",
        b"x" * 10_000,
        b"\xff\xfe\n",
    ],
)
async def test_nonsense_is_not_answered_and_harms_nothing(members: Members, tmp_path: Path, spoken: bytes) -> None:
    async with opened(members) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(spoken)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        token = members.make_token(valid_s=60)
        assert (await joining(tmp_path / "s", port, token=token).admitted()).verdict == "admitted"
    assert len(members.all()) == 1


async def test_many_silent_visitors_end_and_are_bounded(
    members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histrio.hosts.door._PATIENCE_S", 0.3)
    async with opened(members) as port, contextlib.AsyncExitStack() as stack:
        for _ in range(80):
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
        token = members.make_token(valid_s=60)
        admitted = False
        with anyio.fail_after(20):
            while not admitted:
                with contextlib.suppress(WireError):
                    admitted = (await joining(tmp_path / "s", port, token=token).admitted()).verdict == "admitted"
    assert admitted


async def test_random_questions_never_end_the_door(members: Members, tmp_path: Path) -> None:
    logging.getLogger("histrio.hosts.door").setLevel(logging.ERROR)
    body = msgspec.json.encode(Question(peer_id=HostKey(bytes([1]) * 32).peer_id, name="studio")) + b"\n"
    async with opened(members) as port:
        for index in range(150):
            spoken = bytearray(body)
            for _ in range(1 + index % 4):
                spoken[secrets.randbelow(len(spoken) - 1)] = secrets.randbelow(256)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(bytes(spoken.replace(b"\n", b" ")) + b"\n")
                with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    answer = msgspec.json.decode(await stream.receive(), type=Answer)
                    assert answer.verdict in ("unknown", "waiting", "refused")
        token = members.make_token(valid_s=60)
        assert (await joining(tmp_path / "s", port, token=token).admitted()).verdict == "admitted"
    assert [each.name for each in members.all()] == ["studio"], "chance has admitted none"


async def test_no_head_at_the_address_is_told(members: Members, tmp_path: Path) -> None:
    async with opened(members) as port:
        pass
    with pytest.raises(WireError, match=f"no head answers at 127.0.0.1:{port}"):
        await joining(tmp_path / "s", port).admitted()


async def test_what_speaks_another_language_is_no_head(tmp_path: Path) -> None:
    async def web(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(WireError, match="is no head of a cluster"):
            await joining(tmp_path / "s", port).admitted()


async def test_a_port_that_is_taken_is_told(members: Members) -> None:
    async with opened(members) as port:
        with pytest.raises(WireError, match="machines cannot join"):
            await Door(members, peer_id=HEAD, name="den", links_port=1).run("127.0.0.1", port)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.1.5", ("192.168.1.5", 3002)),
        ("den.local:4000", ("den.local", 4000)),
        ("http://10.0.0.1:3002/", ("10.0.0.1", 3002)),
    ],
)
async def test_addresses_of_heads(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", ":3002", "den:", "den:port", "den:0", "den:70000"])
async def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(WireError, match="is no address of a head"):
        split_address(text)
