"""NUMA nodes are read as Linux lists them, and threads and memory are bound to them where there are several."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from histrio.errors import BackendError
from histrio_cpu import numa
from histrio_cpu.numa import apply_numa, check_numa, read_nodes

MACHINE = {"node0": "0-2,8", "node1": "3-5\n", "node2": "", "node3": "none", "possible": "0-3"}
"""Node 2 has memory only."""


class System:
    """What was asked of it; the process may use processors 1 to 4."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, allows: bool = True) -> None:
        self.processors: list[set[int]] = []
        self.memory: list[int] = []
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3, 4}, raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", lambda _, used: self.processors.append(used), raising=False)
        monkeypatch.setattr(numa, "_bind_memory", self._bind_memory)
        self._allows = allows

    def _bind_memory(self, node: int) -> bool:
        self.memory.append(node)
        return self._allows


def write_machine(folder: Path, monkeypatch: pytest.MonkeyPatch, lists: dict[str, str]) -> None:
    for name, text in lists.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "cpulist").write_text(text)
    monkeypatch.setattr(numa, "_NODES", folder)


def test_nodes_are_those_with_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_machine(tmp_path / "node", monkeypatch, MACHINE)
    assert read_nodes() == {0: {0, 1, 2, 8}, 1: {3, 4, 5}}
    monkeypatch.setattr(numa, "_NODES", tmp_path / "nowhere")
    assert read_nodes() == {0: set()}


@pytest.mark.parametrize(("node", "processors"), [(0, {1, 2}), (1, {3, 4})])
def test_threads_and_memory_go_to_the_node(
    node: int, processors: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_machine(tmp_path, monkeypatch, MACHINE)
    system = System(monkeypatch)
    assert apply_numa("off") == []
    assert not system.processors
    assert apply_numa(node) == []
    assert (system.processors, system.memory) == ([processors], [node])


def test_the_library_distributes_threads_over_the_nodes_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_machine(tmp_path, monkeypatch, {**MACHINE, "node4": "6-7"})
    system = System(monkeypatch)
    assert apply_numa("distribute") == [[1, 2], [3, 4]]
    assert (system.processors, system.memory) == ([], [])


def test_a_machine_with_one_node_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_machine(tmp_path, monkeypatch, {"node0": "0-7"})
    system = System(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert apply_numa("distribute") == []
        assert apply_numa(0) == []

    assert "numa = distribute changes nothing: this machine has one NUMA node" in caplog.text
    assert not system.processors


def test_what_the_system_does_not_allow_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_machine(tmp_path, monkeypatch, MACHINE)
    system = System(monkeypatch, allows=False)
    apply_numa(1)
    assert system.processors == [{3, 4}]
    assert "does not allow memory to be bound" in caplog.text
    with pytest.raises(BackendError, match="there is no NUMA node 7; this machine has 0, 1"):
        check_numa(7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8})
    with pytest.raises(BackendError, match="may use no processor of the NUMA node 1"):
        apply_numa(1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinities are Linux's")
def test_the_system_takes_the_policy_of_this_machine_s_own_node() -> None:
    """In a process of its own, since policies stay; containers may refuse."""
    code = "from histrio_cpu.numa import _bind_memory; print(_bind_memory(0), _bind_memory(0, policy=9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if done.stdout.startswith("False"):
        pytest.skip("this system refuses set_mempolicy")
    assert done.stdout == "True False\n", "a policy that does not exist is a control"
