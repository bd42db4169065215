"""The file of SQLite that keeps counts. Its methods block, and only one thread calls them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histrio.errors import TopologyError
from histrio_api.usage.counts import Counts, Place, Question

__all__ = ["MAX_ROWS", "UsageFile"]

MAX_ROWS = 10_000
"""Most rows of one answer."""
_VERSION = 1
_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY)
"""What keeps a sound file from being written for a while."""
_COLUMNS = Counts.__struct_fields__
_CREATE = f"""
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
    {", ".join(f"{column} INTEGER NOT NULL DEFAULT 0" for column in _COLUMNS)},
    PRIMARY KEY (day, key, model)
) WITHOUT ROWID
"""
_ADD = f"""
INSERT INTO usage (day, key, model, {", ".join(_COLUMNS)}) VALUES (?, ?, ?{", ?" * len(_COLUMNS)})
ON CONFLICT DO UPDATE SET {", ".join(f"{column} = {column} + excluded.{column}" for column in _COLUMNS)}
"""


class UsageFile:
    """One open file."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises `TopologyError` for what is no such file, or cannot become one."""
        self._path = path
        self._is_made = False
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False)
            self._make()
        except sqlite3.Error as error:
            if not is_passing(error):
                raise TopologyError("api.usage-file", f"{path}: {error}") from None

    def add(self, batch: Mapping[Place, Counts]) -> None:
        """Add all of it, or nothing. Raises `sqlite3.Error`."""
        if not self._is_made:
            self._make()
        rows = [(*place, *(getattr(counts, column) for column in _COLUMNS)) for place, counts in batch.items()]
        with self._connection:
            self._connection.executemany(_ADD, rows)

    def forget_before(self, day: str) -> None:
        """Delete what was counted before this day. Raises `sqlite3.Error`."""
        with self._connection:
            self._connection.execute("DELETE FROM usage WHERE day < ?", (day,))

    def rows(self, question: Question) -> list[dict[str, Any]]:
        """At most `MAX_ROWS` and one more. Raises `sqlite3.Error`."""
        groups = ", ".join(question.groups)
        sums = ", ".join(f"SUM({column})" for column in _COLUMNS)
        where, given = "day BETWEEN ? AND ?", [question.start, question.end]
        if question.key is not None:
            where, given = f"{where} AND key = ?", [*given, question.key]
        grouped = f"GROUP BY {groups} ORDER BY {groups}" if groups else "GROUP BY NULL"
        query = f"SELECT {', '.join([*question.groups, sums])} FROM usage WHERE {where} {grouped} LIMIT {MAX_ROWS + 1}"
        names = [*question.groups, *_COLUMNS]
        return [dict(zip(names, row, strict=True)) for row in self._connection.execute(query, given)]

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def _make(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            text = f"{self._path}: was written by another version of histrio; name another file"
            raise TopologyError("api.usage-file", text)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._connection:
            self._connection.execute(_CREATE)
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        self._is_made = True


def is_passing(error: sqlite3.Error) -> bool:
    """Whether the file may be written later: a full disk, not a missing folder."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _PASSING
