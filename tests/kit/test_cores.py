"""How many threads compute side by side: affinity, physical cores, and the container's share of time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from histrio.kit import cores
from histrio.kit.cores import num_cores

Machine = Callable[..., int]


@pytest.fixture
def cores_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The answer on a machine of these processors, each with its siblings, and these files under /sys/fs/cgroup."""

    def answer(siblings: list[str], own_group: str = "0::/\n", **files: str) -> int:
        for number, text in enumerate(siblings):
            (tmp_path / f"siblings{number}").write_text(f"{text}\n")
        for name, text in {"own": own_group, **files}.items():
            file = tmp_path / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return num_cores()

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cores, "_SIBLINGS", str(tmp_path / "siblings{}"))
    monkeypatch.setattr(cores, "_GROUPS", str(tmp_path / "groups"))
    monkeypatch.setattr(cores, "_OWN_GROUP", str(tmp_path / "own"))
    monkeypatch.setattr(cores, "_OLD_QUOTA", (str(tmp_path / "old_quota"), str(tmp_path / "old_period")))
    return answer


@pytest.mark.parametrize(
    ("siblings", "expected"),
    [([], 4), (["0", "1", "2", "3"], 4), (["0,2", "1,3", "0,2", "1,3"], 2), (["0-1", "0-1", "2-3", "2-3", "4-5"], 2)],
    ids=["nothing is known", "four", "two threads each", "neighbours, and one that is not ours"],
)
def test_threads_of_one_core_count_once(siblings: list[str], expected: int, cores_of: Machine) -> None:
    assert cores_of(siblings) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000\n", 4),
        ("200000 100000\n", 2),
        ("350000 100000\n", 3),
        ("50000 100000\n", 1),
        ("900000 100000\n", 4),
        ("", 4),
        ("nonsense\n", 4),
        ("200000 0\n", 4),
    ],
)
def test_a_container_has_whole_cores_of_its_share(limit: str, expected: int, cores_of: Machine) -> None:
    files = {"groups__cpu.max": limit}
    assert cores_of([], **files) == expected


def test_groups_around_the_own_one_limit_it_too(cores_of: Machine) -> None:
    files = {
        "groups__a.slice__cpu.max": "200000 100000\n",
        "groups__a.slice__b.scope__cpu.max": "max 100000\n",
        "groups__other.slice__cpu.max": "100000 100000\n",
    }
    own_group = "1:cpu:/other.slice\n0::/a.slice/b.scope\n"
    assert cores_of([], own_group, **files) == 2


@pytest.mark.parametrize(("quota", "expected"), [("-1\n", 4), ("300000\n", 3)])
def test_groups_of_the_first_version_limit_too(quota: str, expected: int, cores_of: Machine) -> None:
    assert cores_of([], old_quota=quota, old_period="100000\n") == expected


def test_a_system_without_affinity_has_all_of_its_processors(
    cores_of: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores_of([]) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores_of([]) == 1
