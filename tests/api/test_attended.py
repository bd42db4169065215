"""Work goes on while a client waits for it; it ends when the client leaves, or the server is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from histrio.errors import EngineError, RequestError
from histrio_api.errors import ClientLeft
from histrio_api.request.attended import WhileAttended, attended, ended_by

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


class Leaving:
    """What `WhileAttended` asks of a request."""

    def __init__(self, *, has_left: bool = False) -> None:
        self.has_left = has_left
        self.call: Callable[[], object] | None = None

    def when_left(self, call: Callable[[], object] | None) -> bool:
        self.call = call
        return self.has_left

    def leave(self) -> None:
        self.has_left = True
        if self.call is not None:
            self.call()


@pytest.mark.parametrize("has_left", [False, True], ids=["leaves", "has left"])
async def test_a_block_is_over_when_the_client_leaves(has_left: bool) -> None:
    request, steps = Leaving(has_left=has_left), []
    if not has_left:
        asyncio.get_running_loop().call_soon(request.leave)
    with anyio.fail_after(5), WhileAttended(cast("Any", request)):
        await anyio.sleep_forever()
        steps.append("went on")
    await anyio.lowlevel.checkpoint()  # and nothing else is cancelled
    steps.append("after it")
    assert (steps, request.call) == (["after it"], None)


async def test_a_block_whose_client_stays_is_cancelled_as_ever() -> None:
    request, steps = Leaving(), []
    with anyio.move_on_after(0.01) as scope:
        with WhileAttended(cast("Any", request)):
            await anyio.sleep_forever()
        steps.append("went on")
    request.leave()
    await anyio.lowlevel.checkpoint()
    assert (steps, scope.cancelled_caught) == ([], True), "a control: only the client's leaving ends the block quietly"
