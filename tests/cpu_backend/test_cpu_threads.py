"""Stages of one process share its compute threads, whose number may change while they step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import numpy as np

from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_cpu.factory import CpuFactory
from histrio_cpu.library import load_library
from histrio_torch.testing import MAX_LENGTH
from tests.cpu_backend.conftest import prompt


def logits_again_and_again(folder: str, num_times: int) -> list[Any]:
    """Of one prompt, in one stage."""
    chain = StageChain(CpuFactory(), folder, (), HarnessOptions(max_sequence_length=MAX_LENGTH, dtype="float32"))
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
