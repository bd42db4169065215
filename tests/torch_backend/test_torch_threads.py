"""Stages that share a thread each compute with their own number of threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histrio.config.model_config import read_model_config
from histrio.contracts.backend import ReplicaSize, StageOutput, StageSpec, StepBatch
from histrio.testing.models import write_model
from histrio_torch.backend import RunningTorchStage, _usual_threads
from histrio_torch.factory import TorchFactory

pytestmark = pytest.mark.timeout(90)  # the first of them imports transformers


def one_token() -> StepBatch:
    zero, one = np.zeros(1, np.int32), np.ones(1, np.int32)
    return StepBatch(
        slots=zero,
        starts=zero,
        num_tokens=one,
        num_sampled=one,
        offsets=np.array([0, 1], np.int32),
        block_tables=np.zeros((1, 1), np.int32),
        positions=np.zeros(1, np.int64),
        token_ids=np.zeros(1, np.int64),
        hidden=[],
    )


def opened(folder: Path, threads: int | None) -> Any:
    layers = read_model_config(folder).num_layers
    spec = StageSpec(str(folder), 0, layers, layers, dtype="float32", threads=threads)
    return TorchFactory().open(spec, lambda _share, _text: None).allocate(ReplicaSize(1, 16, 1, 64, 16))


def test_each_stage_of_a_thread_computes_with_its_own_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model("llama", tmp_path / "llama")
    seen: list[int] = []
    plain = RunningTorchStage._answer

    def watch(stage: RunningTorchStage, *arguments: Any) -> StageOutput:
        seen.append(torch.get_num_threads())
        return plain(stage, *arguments)

    monkeypatch.setattr(RunningTorchStage, "_answer", watch)
    before, usual = torch.get_num_threads(), _usual_threads()
    wide, narrow = opened(folder, None), opened(folder, usual + 1)
    try:
        for stage in (wide, narrow, wide, opened(folder, None)):
            stage.step(one_token())
    finally:
        torch.set_num_threads(before)
    assert seen == [usual, usual + 1, usual, usual]


def test_the_usual_number_is_that_of_the_cores_unless_the_user_says_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histrio_torch.backend.num_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert _usual_threads.__wrapped__() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert _usual_threads.__wrapped__() == 3
    finally:
        torch.set_num_threads(before)
