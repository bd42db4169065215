"""A service that ends by itself is named and started again; it takes no other along."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from histrio.contracts.hooks import EdgeContext
from histrio.errors import RestartLimitReached, TopologyError
from histrio.processes import services as services_module
from histrio.processes.services import RestartLimits, Services
from histrio.testing.wait import eventually_async

pytestmark = pytest.mark.anyio

Run = Callable[[EdgeContext], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_module, "_FIRST_DELAY_S", 0.0)


class Service:
    """Runs what the test gives it."""

    settings = dict

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._run = run
        self.num_runs = 0

    async def run(self, context: EdgeContext) -> None:
        self.num_runs += 1
        await self._run(context)


async def serve(context: EdgeContext) -> None:
    context.ready("http://here")
    await anyio.sleep_forever()


async def serve_and_fail(context: EdgeContext) -> None:
    context.ready("http://there")
    raise RuntimeError("a bug")


async def return_at_once(_context: EdgeContext) -> None:
    """A service that does not serve."""


async def leave(_context: EdgeContext) -> None:
    raise SystemExit(3)


async def cancel_itself(_context: EdgeContext) -> None:
    raise asyncio.CancelledError


async def fail_in_a_group(context: EdgeContext) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_and_fail, context)


async def refuse(_context: EdgeContext) -> None:
    async with anyio.create_task_group():
        raise TopologyError("there.port", "is in use")


def all_of(*services: Service, limits: RestartLimits | None = None) -> Services:
    gateway: Any = None
    return Services([(service, {}) for service in services], gateway, limits or RestartLimits(2, 60.0), lambda: 0.0)


@pytest.mark.parametrize("run", [serve_and_fail, return_at_once, leave, cancel_itself, fail_in_a_group])
async def test_one_that_ends_is_named_and_given_up_and_the_others_stay(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Service("bad", run), Service("good", serve)
    services = all_of(bad, good)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(services.run)
        await eventually_async(lambda: "given up" in caplog.text)
        assert bad.num_runs == 3, "started, and twice more"
        assert good.num_runs == 1
        assert "http://here" in await services.addresses()
        tasks.cancel_scope.cancel()
    ends = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert all("'bad'" in record.getMessage() for record in ends)


async def test_without_any_service_left_the_front_ends() -> None:
    services = all_of(Service("bad", return_at_once))
    with pytest.raises(RestartLimitReached, match="no service is left"):
        await services.run()


async def test_one_that_cannot_begin_as_it_is_set_up_ends_the_start_with_its_reason() -> None:
    service = Service("bad", refuse)
    with pytest.raises(BaseExceptionGroup) as raised:
        await all_of(service, Service("good", serve)).run()
    assert raised.group_contains(TopologyError, match="there.port: is in use")
    assert service.num_runs == 1


async def test_failures_long_ago_do_not_count() -> None:
    now = 0.0

    async def fail_after_an_hour(_context: EdgeContext) -> None:
        nonlocal now
        now += 3600.0

    service = Service("slow", fail_after_an_hour)
    gateway: Any = None
    services = Services([(service, {})], gateway, RestartLimits(2, 60.0), lambda: now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(services.run)
        await eventually_async(lambda: service.num_runs >= 10)
        tasks.cancel_scope.cancel()


async def test_being_stopped_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with anyio.create_task_group() as tasks:
        services = all_of(Service("good", serve))
        tasks.start_soon(services.run)
        assert await services.addresses() == ["http://here"]
        tasks.cancel_scope.cancel()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
