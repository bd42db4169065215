"""Streams that wait: what keeps them open stands between their events, and never within one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from histrio_api.answer.sse import EventStream, Write

pytestmark = pytest.mark.anyio
PING = b": ping\n\n"


class _Source:
    """Writes half of what it has, and the rest when it is told to."""

    def __init__(self, *, is_one_event: bool, go_on: anyio.Event) -> None:
        self._is_one_event = is_one_event
        self._go_on = go_on

    async def produce(self, write: Write) -> bytes:
        await write(b"data: a", has_more=self._is_one_event)
        await self._go_on.wait()
        await write(b"b\n\n")
        return b""

    def waiting(self) -> bytes:
        return PING

    def close(self, is_complete: bool) -> None:
        assert is_complete


async def test_a_comment_never_comes_within_an_event() -> None:
    go_on = anyio.Event()
    sent: dict[bool, list[bytes]] = {True: [], False: []}

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def stream(is_one_event: bool) -> None:
        async def send(message: Any) -> None:
            sent[is_one_event].append(message.get("body", b""))
            if sent[False].count(PING) == 3:
                go_on.set()

        source = _Source(is_one_event=is_one_event, go_on=go_on)
        events = EventStream(source, media_type="text/event-stream", keep_alive_s=0.02, headers={})
        await events.send(receive, send)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for is_one_event in sent:
                tasks.start_soon(stream, is_one_event)
    assert b"".join(sent[True]) == b"data: ab\n\n"
    assert sent[False].count(PING) >= 3, "a control: one that waits between events is kept open meanwhile"
