"""Stages of one process share its compute threads, whose number may change while they step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_cpu.factory import CpuFactory
from histrio_cpu.library import load_library
from histrio_torch.testing import MAX_LENGTH
from tests.cpu_backend.conftest import prompt


def logits_again_and_again(folder: str, num_times: int, **stage_options: Any) -> list[Any]:
    """Of one prompt, in one stage."""
    options = HarnessOptions(max_sequence_length=MAX_LENGTH, dtype="float32", stage_options=stage_options)
    chain = StageChain(CpuFactory(), folder, (), options)
    found = []
    for _ in range(num_times):
        logits = chain.step([ChainRow(0, prompt(1, 40), 40)])
        assert logits is not None
        found.append(logits.copy())
        chain.leave(0)
    chain.close()
    return found


def test_stages_step_while_the_number_of_threads_changes(tiny_model: Callable[[str], Any]) -> None:
    folder = tiny_model("qwen3").folder
    alone = logits_again_and_again(folder, 1)[0]
    with ThreadPoolExecutor(2) as beside:
        stages = [beside.submit(logits_again_and_again, folder, 100) for _ in range(2)]
        for num_threads in cycle((1, 2, 5)):
            load_library().use("auto", num_threads)
            if all(stage.done() for stage in stages):
                break

    assert np.abs(alone).max() > 0
    for stage in stages:
        assert all(np.array_equal(logits, alone) for logits in stage.result())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps threads on processors")
def test_threads_and_weights_are_distributed_over_nodes(
    tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = sorted(os.sched_getaffinity(0))
    nodes = [usable[:1], usable[1:]]
    if not nodes[1]:
        pytest.skip("one processor cannot stand for two nodes")

    folder = tiny_model("qwen3_moe").folder
    alone = logits_again_and_again(folder, 1)[0]
    monkeypatch.setattr("histrio_cpu.numa.read_nodes", lambda: dict(enumerate(map(set, nodes))))
    monkeypatch.setattr("histrio_cpu.loader.num_cores", lambda: 4)

    def threads_of_second_node() -> int:
        return [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")].count({*nodes[1]})

    before = threads_of_second_node()
    with ThreadPoolExecutor(1) as beside:  # which is kept on the first node, and ends
        logits = beside.submit(logits_again_and_again, folder, 3, numa="distribute").result()
        num_kept = threads_of_second_node() - before
        undistributed = beside.submit(logits_again_and_again, folder, 1).result()
    assert num_kept == 2, "the half of them"
    assert threads_of_second_node() - before == 0, "a control"
    assert all(np.array_equal(each, alone) for each in [*logits, *undistributed])
