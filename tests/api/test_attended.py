"""Work goes on while a client waits for it; it ends when the client leaves, or the server is told to stop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from histrio.errors import EngineError, RequestError
from histrio_api.errors import ClientLeft
from histrio_api.request.attended import attended, ended_by

pytestmark = pytest.mark.anyio


def edge(state: str = "ready") -> Any:
    made = SimpleNamespace(gateway=SimpleNamespace(status=SimpleNamespace(state=state)))

    def require_accepting() -> None:
        if made.gateway.status.state != "ready":
            raise EngineError("the server is shutting down")

    made.require_accepting = require_accepting
    return made


async def stays() -> object:
    await anyio.sleep_forever()
    raise AssertionError


async def test_what_is_waited_for_is_done_or_raises_its_own_error() -> None:
    done = []

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.append(True)

    async def fails() -> None:
        raise RequestError("as it is")

    await attended(edge(), stays, work)
    assert done == [True]
    with pytest.raises(RequestError, match="as it is"):
        await attended(edge(), stays, fails)


async def test_a_client_that_leaves_ends_the_work() -> None:
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def leaves() -> object:
        return next(messages)

    with pytest.raises(ClientLeft) as caught:
        await attended(edge(), leaves, anyio.sleep_forever)
    assert caught.value.status == 499


async def test_the_end_of_the_server_ends_the_work_with_503() -> None:
    with pytest.raises(EngineError, match="shutting down") as caught:
        await attended(edge("draining"), stays, anyio.sleep_forever)
    assert caught.value.status == 503


async def test_a_block_ends_with_the_first_of_what_it_is_watched_by() -> None:
    ends: list[str] = []

    async def stays_watching() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ends.append("watch")

    async def returns() -> None:
        ends.append("first")

    with ended_by(stays_watching, returns) as scope:
        await anyio.sleep_forever()
    await anyio.wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert ends == ["first", "watch"]

    with ended_by(stays_watching) as scope:
        await anyio.wait_all_tasks_blocked()
    await anyio.wait_all_tasks_blocked()
    assert not scope.cancelled_caught
    assert ends == ["first", "watch", "watch"]
