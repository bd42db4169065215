"""What a stage loads: its own layers only, in the dtype that the device can do, with rotary positions as configured."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import torch

from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError
from histrio.messages import StageCapacity
from histrio.testing.chain import ChainRow
from histrio_mlx import backend
from histrio_mlx.backend import MlxStage
from histrio_mlx.testing import NUM_LAYERS, MlxChain, as_torch
from histrio_torch.testing import MOST_ERROR, logits_error

FILE_LIMIT = """
import resource
before = (900, 3000)
resource.setrlimit(resource.RLIMIT_NOFILE, before)
import histrio_mlx.compat
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before, resource.getrlimit(resource.RLIMIT_NOFILE)
"""
UNGUARDED = FILE_LIMIT.replace("import histrio_mlx.compat", "import mlx_lm.utils")


def open_stage(folder: Path, first: int, last: int, num_layers: int, **settings: Any) -> tuple[MlxStage, StageCapacity]:
    spec = StageSpec(str(folder), first, last, num_layers, **{"device": "cpu", "max_sequence_length": 64, **settings})
    stage = backend.open_stage(spec, lambda fraction, text: None)
    return stage, stage.capacity


def test_half_of_the_layers_take_half_of_the_memory(mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model("llama", num_hidden_layers=8, hidden_size=256, intermediate_size=512, num_attention_heads=16)
    held = []
    gc.collect()  # or arrays of other tests are freed in between
    for first, last in ((0, 8), (2, 6)):
        before = mx.get_active_memory()
        stage, capacity = open_stage(tiny.folder, first, last, 8)
        held.append(mx.get_active_memory() - before)
        assert held[-1] == pytest.approx(capacity.param_bytes, rel=0.05)
        stage.close()
        assert mx.get_active_memory() - before < 0.02 * held[-1], "closing gives the memory back"

    assert 0.4 < held[1] / held[0] < 0.55


def test_importing_mlx_lm_leaves_the_limit_of_open_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FILE_LIMIT], check=True, timeout=80)
    unguarded = subprocess.run([sys.executable, "-c", UNGUARDED], capture_output=True, timeout=80, check=False)
    assert unguarded.returncode != 0, "the control: mlx-lm by itself changes the limit"


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3", "phi3", "mistral", "cohere", "deepseek_v3"])
def test_without_the_normaliser_rotary_positions_are_wrong(
    family: str, mlx_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = mlx_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=21, num_tokens=1)
    monkeypatch.setattr("histrio_mlx.config._flatten_rope", lambda config: None)
    chain = MlxChain(tiny.folder)
    logits = chain.step([ChainRow(0, reference.ids, 21)])

    assert logits_error(as_torch(logits), reference.logits) > 10 * MOST_ERROR
    chain.close()


@pytest.mark.parametrize(
    ("family", "device_bytes", "requested", "dtype"),
    [
        ("llama", 10**9, "auto", "float32"),
        ("llama", 0, "auto", "bfloat16"),
        ("llama", 10**9, "float16", "float16"),
        ("glm4_moe", 0, "auto", "float32"),
    ],
)
def test_the_dtype_is_the_checkpoints_or_what_a_cpu_can_do(
    family: str,
    device_bytes: int,
    requested: str,
    dtype: str,
    mlx_model: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("histrio.kit.checkpoint.SMALL_CHECKPOINT_BYTES", device_bytes)
    folder = shutil.copytree(mlx_model(family).folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    stage, capacity = open_stage(folder, 0, NUM_LAYERS, NUM_LAYERS, dtype=requested)

    assert capacity.dtype == dtype
    stage.close()


def test_unquantized_experts_in_half_precision_are_refused_on_a_cpu(mlx_model: Callable[..., Any]) -> None:
    with pytest.raises(BackendError, match="float32 only"):
        open_stage(mlx_model("glm4_moe").folder, 0, NUM_LAYERS, NUM_LAYERS, dtype="bfloat16")


def test_bfloat16_stages_follow_each_other(mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model("qwen3")
    reference = tiny.refer(seed=1, num_prompt_tokens=21, num_tokens=1)
    chains = [MlxChain(tiny.folder, cuts, dtype="bfloat16") for cuts in ((), (2,))]
    whole, split = (chain.step([ChainRow(0, reference.ids, 21)]) for chain in chains)

    assert torch.equal(as_torch(whole), as_torch(split))
    assert MOST_ERROR < logits_error(as_torch(split), reference.logits) < 0.2
    for chain in chains:
        chain.close()
