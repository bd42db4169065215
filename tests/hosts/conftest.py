from __future__ import annotations

from pathlib import Path

import pytest

from histrio.hosts.folder import HostFolder, host_folder
from histrio.hosts.members import Members


class Clock:
    """Seconds since 1970, as a test says."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> HostFolder:
    return host_folder(tmp_path / "head")


@pytest.fixture
def members(folder: HostFolder, clock: Clock) -> Members:
    return Members(folder, clock)
