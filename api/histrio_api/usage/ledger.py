"""Counting usage without holding up a request: sums in memory, added to the file once a second by a thread.

A file that cannot be written is said in the log, once, and tried again with the next sums. What is not written yet is
bounded by the number of keys and models, and nothing of it is lost until the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import anyio

from histrio.errors import EngineError, TopologyError
from histrio_api.usage.counts import Counts, Place, Question
from histrio_api.usage.usage_file import UsageFile

__all__ = ["UsageLedger", "utc_today"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_EVERY_S = 1.0
LAST_WRITE_S = 5.0
"""How long the last sums may take to be written once the endpoint stops."""
MAX_PENDING = 100_000
"""Most sums that wait to be written: keys times models times days."""


def utc_today() -> date:
    """Days begin and end in UTC."""
    return datetime.now(UTC).date()


class UsageLedger:
    """Counts of all keys. All methods run on the loop; the file is the thread's."""

    def __init__(self, file: UsageFile, keep_days: int, today: Callable[[], date] = utc_today) -> None:
        self._file = file
        self._keep_days = keep_days
        self._today = today
        self._pending: dict[Place, Counts] = {}
        self._cleared: date | None = None
        """When old days were deleted last."""
        self._is_failing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="usage")

    @property
    def today(self) -> date:
        """The day that is counted now."""
        return self._today()

    def count(self, key: str, model: str, counts: Counts) -> None:
        """Add to today's sums."""
        self._merge(Place(self._today().isoformat(), key, model), counts)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write once a second while the block runs, and once more at its end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_steadily)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True), anyio.move_on_after(LAST_WRITE_S):
                    await self._write()
                    await self._in_thread(self._file.close)
                self._thread.shutdown(wait=False)

    async def rows(self, question: Question) -> list[dict[str, Any]]:
        """What is counted up to now. Raises `EngineError` if the file cannot be read."""
        await self._write()
        try:
            return await self._in_thread(lambda: self._file.rows(question))
        except sqlite3.Error as error:
            logger.error("the usage file cannot be read: %s", error)
            raise EngineError("the usage cannot be read at the moment; the server's log has the reason") from None

    async def _write_steadily(self) -> None:
        while True:
            await anyio.sleep(WRITE_EVERY_S)
            await self._write()

    async def _write(self) -> None:
        batch, self._pending = self._pending, {}
        today = self._today()
        if not batch and today == self._cleared:
            return
        try:
            with anyio.CancelScope(shield=True):  # half of it done is as good as lost
                await self._in_thread(lambda: self._add(batch, today))
        except (sqlite3.Error, TopologyError) as error:
            self._put_back(batch)
            self._say_failure(error)
        else:
            self._say_recovery()

    def _add(self, batch: dict[Place, Counts], today: date) -> None:
        """In the thread."""
        if batch:
            self._file.add(batch)
        if today != self._cleared:
            self._file.forget_before((today - timedelta(self._keep_days)).isoformat())
            self._cleared = today

    def _put_back(self, batch: dict[Place, Counts]) -> None:
        for place, counts in batch.items():
            self._merge(place, counts)

    def _merge(self, place: Place, counts: Counts) -> None:
        known = self._pending.get(place)
        if known is not None:
            known.add(counts)
        elif len(self._pending) < MAX_PENDING:
            self._pending[place] = counts

    def _say_failure(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.error("usage cannot be written, and is kept in memory until it can: %s", error)

    def _say_recovery(self) -> None:
        if self._is_failing:
            self._is_failing = False
            logger.info("usage is written again")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
