"""A stage reads its own weights, in the dtype asked for, and takes no memory for the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from histrio.contracts.backend import StageSpec
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_torch.backend import open_stage
from histrio_torch.dry_run import NUM_TRIED_TOKENS, record_shapes
from histrio_torch.factory import TorchFactory
from histrio_torch.linear import PackedLinear
from histrio_torch.loader import load_stage
from histrio_torch.testing import NUM_LAYERS, make_model

CPU = torch.device("cpu")

CHILD = """
import resource, sys
from histrio.contracts.backend import StageSpec
from histrio_torch.backend import open_stage

def open_peak(folder, first, last, layers):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    stage = open_stage(StageSpec(folder, first, last, layers, device="cpu"), lambda fraction, text: None)
    peak = status("VmHWM") - before
    stage.close()
    return peak

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) // 1024

tiny, folder, layers = sys.argv[1], sys.argv[2], int(sys.argv[3])
open_peak(tiny, 0, 3, 3)
print(open_peak(folder, 3, 5, layers), open_peak(folder, 0, layers, layers))
"""


@pytest.mark.timeout(90)  # a child process imports torch and loads 150 MB twice
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel doesn't tell peak memory")
def test_other_layers_are_never_allocated(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    num_layers, layer_mib = 12, 12.6
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 8}
    make_model(
        "qwen2", tmp_path, num_hidden_layers=num_layers, head_dim=64, layer_types=None, max_shard_size="30MB", **sizes
    )
    assert len(list(tmp_path.glob("*.safetensors"))) > 4
    child = subprocess.run(
        [sys.executable, "-c", CHILD, tiny_model("llama").folder, str(tmp_path), str(num_layers)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    two_layers, all_layers = map(int, child.stdout.split())
    bound = 3 * 2 * layer_mib

    assert two_layers < bound, f"two layers took {two_layers} MiB"
    assert all_layers > bound, "loading everything must not pass the bound, or the bound proves nothing"


def test_only_owned_parts_have_weights(tiny_model: Callable[[str], Any]) -> None:
    folder = tiny_model("llama").folder
    first, middle, last = (load(folder, bounds) for bounds in ((0, 1), (1, 2), (2, 3)))

    assert {name for name in first if "layers" not in name} == {"model.embed_tokens"}
    assert {".".join(name.split(".")[1:3]) for name in middle} == {"layers.1"}
    assert {name for name in last if "layers" not in name} == {"model.norm", "lm_head"}


def test_a_tied_head_needs_no_embeddings(tiny_model: Callable[[str], Any]) -> None:
    last = load(tiny_model("qwen3").folder, (2, 3))

    assert "lm_head" in last
    assert "model.embed_tokens" not in last


def test_param_bytes_of_the_stages_add_up(tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model("mistral")
    whole = sum(parameter.numel() for parameter in tiny.model.parameters()) * 4
    chain = StageChain(TorchFactory(), tiny.folder, (1, 2))

    assert sum(capacity.param_bytes for capacity in chain.capacities) == whole
    chain.close()


@pytest.mark.parametrize(("asked", "given"), [("auto", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")])
def test_small_models_are_float32_unless_asked_otherwise(asked: str, given: str, tmp_path: Path) -> None:
    make_model("qwen3", tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    chain = StageChain(TorchFactory(), str(tmp_path), (1,), HarnessOptions(dtype=asked))

    assert {capacity.dtype for capacity in chain.capacities} == {given}
    logits = chain.step([ChainRow(0, [5, 6, 7])])
    assert logits is not None
    assert logits.shape == (1, 160)
    chain.close()


def test_large_checkpoints_keep_their_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model("qwen3", tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    monkeypatch.setattr("histrio.kit.checkpoint.SMALL_CHECKPOINT_BYTES", 1)
    stage = open_stage(spec(str(tmp_path), (0, 3)), lambda *_: None)

    assert stage.capacity.dtype == "bfloat16"
    stage.close()


def test_progress_reaches_one(tiny_model: Callable[[str], Any]) -> None:
    told: list[float] = []
    stage = open_stage(spec(tiny_model("llama").folder, (0, 2)), lambda fraction, text: told.append(fraction))

    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > NUM_LAYERS
    stage.close()


def test_closing_twice_is_harmless_and_another_stage_opens(tiny_model: Callable[[str], Any]) -> None:
    for _ in range(2):
        stage = open_stage(spec(tiny_model("llama").folder, (0, 3)), lambda *_: None)
        stage.close()
        stage.close()

    assert stage.capacity.max_blocks[16] >= stage.capacity.max_blocks[32] >= 1


def test_accelerate_is_not_needed(tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.accelerate.is_accelerate_available", lambda: False)
    folder = tiny_model("llama").folder

    assert "model.norm" in load(folder, (1, 3))
    with pytest.raises(ValueError, match="accelerate"):
        type(tiny_model("llama").model).from_pretrained(folder, device_map="cpu")


def load(folder: str, bounds: tuple[int, int]) -> set[str]:
    """Names of the modules that hold weights."""
    model = load_stage(spec(folder, bounds), CPU, lambda fraction, text: None).model
    holders = {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    return holders | {name.rpartition(".")[0] for name, _ in model.named_parameters()}


def spec(folder: str, bounds: tuple[int, int]) -> StageSpec:
    return StageSpec(folder, *bounds, NUM_LAYERS, device="cpu")


def test_stages_that_load_side_by_side_leave_transformers_as_it_was(tiny_model: Callable[[str], Any]) -> None:
    tie_weights = PreTrainedModel.tie_weights
    folder = tiny_model("qwen3").folder

    def load(index: int) -> None:
        stage = open_stage(StageSpec(folder, index, index + 1, NUM_LAYERS, device="cpu"), lambda _fraction, _text: None)
        stage.close()

    with ThreadPoolExecutor(NUM_LAYERS) as threads:
        for _ in range(10):
            list(threads.map(load, range(NUM_LAYERS)))
    assert PreTrainedModel.tie_weights is tie_weights


def test_trial_steps_side_by_side_find_each_its_own_layers(tiny_model: Callable[[str], Any]) -> None:
    one, other = tiny_model("qwen3").model, tiny_model("llama").model
    ids = torch.zeros(1, NUM_TRIED_TOKENS, dtype=torch.int64)
    spec = StageSpec("", 0, NUM_LAYERS, NUM_LAYERS)
    found = []

    def forward() -> None:
        found.append(record_shapes(other, lambda: other(ids, use_cache=False), spec))
        one(ids, use_cache=False)

    found.append(record_shapes(one, forward, spec))
    assert [sorted(shapes) for shapes in found] == [list(range(NUM_LAYERS))] * 2
