"""The edge services of the front: each runs in a task of its own, and starts again when it has ended by itself.

A service that raises or returns takes no other along. One that fails too often is given up; without any left, the
model cannot be reached, and the front ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from histrio.contracts.gateway import Gateway
from histrio.contracts.hooks import EdgeContext, EdgeService
from histrio.errors import HistrioError, RestartLimitReached

__all__ = ["RestartLimits", "ServiceRun", "Services", "first_histrio_error"]

log = logging.getLogger(__name__)

_FIRST_DELAY_S, _MOST_DELAY_S = 0.5, 10.0
_ADDRESS_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How often one service may fail; the keys of `[runtime]` with these names."""

    max_restarts: int = 3
    restart_window_s: float = 60.0


class Services:
    """All services of one front. `run` ends only by being cancelled, or with the error that ends the front."""

    def __init__(
        self,
        services: Sequence[tuple[EdgeService, Any]],
        gateway: Gateway,
        limits: RestartLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs = [ServiceRun(service, settings, self._told, limits, clock) for service, settings in services]
        self._gateway = gateway
        self._addresses: dict[str, str] = {}
        self._has_address = anyio.Event()

    async def run(self) -> None:
        """Raises `HistrioError` where a service cannot begin as it is set up, or once none is left."""
        async with anyio.create_task_group() as tasks:
            for each in self._runs:
                tasks.start_soon(each.run, self._gateway)
        if self._runs:
            raise RestartLimitReached("no service is left by which the model could be reached; the log has the reasons")

    async def addresses(self) -> list[str]:
        """Where the services listen; waits a moment for the first one, which has usually listened all along."""
        if self._runs:
            with anyio.move_on_after(_ADDRESS_WAIT_S):
                await self._has_address.wait()
        return list(self._addresses.values())

    def _told(self, service: str, address: str) -> None:
        log.info("listening on %s", address)
        self._addresses[service] = address
        self._has_address.set()


class ServiceRun:
    """One service, from its first start until it is given up."""

    def __init__(
        self,
        service: EdgeService,
        settings: Any,
        told: Callable[[str, str], None],
        limits: RestartLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._settings = settings
        self._told = told
        self._limits = limits
        self._clock = clock
        self._failures: deque[float] = deque()
        self._has_listened = False

    async def run(self, gateway: Gateway) -> None:
        """Returns when the service is given up. Raises the `HistrioError` of a service that never began."""
        name = self._service.name
        while True:
            reason = await self._run_once(EdgeContext(gateway, self._settings, self._listens))
            delay_s = self._delay_s()
            if delay_s is None:
                log.error("the service %r %s; it has ended too often and is given up", name, reason)
                return
            log.warning("the service %r %s; it is started again in %g s", name, reason, delay_s)
            await anyio.sleep(delay_s)

    async def _run_once(self, context: EdgeContext) -> str:
        """How it ended, in words."""
        try:
            await self._service.run(context)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return "cancelled itself"
        except (Exception, SystemExit) as error:
            cause = first_histrio_error(error)
            if cause is not None and not self._has_listened:
                raise cause from None  # as it is set up it cannot be: starting it again would not help
            if cause is not None:
                return f"failed: {cause}"
            log.error("the service %r failed", self._service.name, exc_info=error)
            return f"failed: {type(error).__name__}"
        return "ended by itself"

    def _listens(self, address: str) -> None:
        self._has_listened = True
        self._told(self._service.name, address)

    def _delay_s(self) -> float | None:
        """Seconds until the next start; None after one failure too many."""
        now = self._clock()
        self._failures.append(now)
        while self._failures[0] <= now - self._limits.restart_window_s:
            self._failures.popleft()
        if len(self._failures) > self._limits.max_restarts:
            return None
        return min(_FIRST_DELAY_S * 2.0 ** (len(self._failures) - 1), _MOST_DELAY_S)


def first_histrio_error(error: BaseException) -> HistrioError | None:
    """The reason in words if there is one, whatever else went down with it."""
    if isinstance(error, HistrioError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := first_histrio_error(each))), None)
    return None
