"""What is loaded, what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError, DoesNotFit, ModelError, UnsupportedModel
from histrio.kit.memory import Budget
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_cpu.backend import CpuStage, open_stage
from histrio_cpu.factory import CpuFactory
from histrio_cpu.library import load_library
from histrio_cpu.loader import plan_stage
from histrio_cpu.traits import CpuOptions
from histrio_cpu.weights import to_bfloat16, to_float32
from histrio_torch.testing import NUM_LAYERS, make_model


def test_a_stage_has_its_own_tensors_only(tiny_model: Callable[[str], Any]) -> None:
    folder = tiny_model("llama").folder
    names = {part.name for part in plan_stage(spec(folder, (1, 2))).parts}

    assert names
    assert all(name.startswith("model.layers.1.") for name in names)
    assert "model.embed_tokens.weight" in {part.name for part in plan_stage(spec(folder, (0, 1))).parts}
    assert "lm_head.weight" in {part.name for part in plan_stage(spec(folder, (2, 3))).parts}


def test_a_tied_head_is_the_embedding_on_the_last_stage(tiny_model: Callable[[str], Any]) -> None:
    names = {part.name for part in plan_stage(spec(tiny_model("qwen3").folder, (2, 3))).parts}

    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_shards_say_what_one_file_says(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "one")
    make_model("llama", tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1

    one, many = (greedy(tmp_path / name) for name in ("one", "many"))
    assert one == many
    make_model("llama", tmp_path / "other", seed=5)
    assert greedy(tmp_path / "other") != one


@pytest.mark.parametrize("quantization", ["q8", "q4"])
def test_rounded_weights_take_less_room_and_say_nearly_the_same(quantization: str, tmp_path: Path) -> None:
    make_model("llama", tmp_path, hidden_size=64)
    full, rounded = (open_at(tmp_path, CpuOptions(quantization=each)) for each in ("none", quantization))  # type: ignore[arg-type]
    sizes = full.capacity.param_bytes, rounded.capacity.param_bytes
    full.close()
    rounded.close()
    expected, logits = (prompt_logits(tmp_path, each) for each in ("none", quantization))
    error = np.abs(logits - expected).max() / np.abs(expected).max()

    assert sizes[1] < 0.6 * sizes[0]
    assert 1e-4 < error < (0.1 if quantization == "q8" else 0.6)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("deepseek_v3", "its type 'deepseek_v3' is none of llama, "),
    ],
)
def test_what_only_torch_runs_is_refused_by_name(family: str, said: str, tmp_path: Path) -> None:
    make_model(family, tmp_path)
    probe = CpuFactory().supports(spec(str(tmp_path), (0, NUM_LAYERS)))

    assert not probe.available
    assert said in probe.reason
    assert "use the torch backend" in probe.reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"quant_method": "aqlm"}}, "quantized by aqlm"),
        ({"hidden_act": "relu2"}, "activation 'relu2'"),
        ({"rope_parameters": {"rope_type": "ntk_alpha", "factor": 2.0, "rope_theta": 1e4}}, "'ntk_alpha'"),
        ({"intermediate_size": 65}, "has the shape"),
    ],
)
def test_a_changed_configuration_is_refused(
    change: dict[str, Any], said: str, tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    shutil.copytree(tiny_model("llama").folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert said in CpuFactory().supports(spec(str(tmp_path), (0, NUM_LAYERS))).reason


@pytest.mark.parametrize("kind", ["missing", "unknown", "integers"])
def test_weights_that_do_not_fit_the_model_are_named(
    kind: str, tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    shutil.copytree(tiny_model("llama").folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    if kind == "missing":
        del tensors[name]
    elif kind == "integers":
        tensors[name] = tensors[name].astype(np.int8)
    else:
        name = "model.layers.1.self_attn.gate.weight"
        tensors[name] = np.ones(3, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        open_stage(spec(str(tmp_path), (1, 2)), lambda *_: None)
    open_stage(spec(str(tmp_path), (0, 1)), lambda *_: None).close()


def test_what_does_not_fit_is_refused_with_numbers(
    tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histrio_cpu.loader.main_memory", lambda: Budget("cpu", 1000, 1000))
    with pytest.raises(DoesNotFit, match="param-mem-ratio"):
        open_stage(spec(tiny_model("llama").folder, (0, NUM_LAYERS)), lambda *_: None)


def test_settings_that_are_not_for_this_machine_are_refused(tiny_model: Callable[[str], Any]) -> None:
    folder = tiny_model("llama").folder
    foreign: Any = next(each for each in ("neon", "avx2") if each not in load_library().kernels)
    with pytest.raises(BackendError, match=f"arch '{foreign}' is not for this processor"):
        open_stage(spec(folder, (0, 1), CpuOptions(arch=foreign)), lambda *_: None)

    assert not CpuFactory().supports(StageSpec(folder, 0, 1, NUM_LAYERS, device="cuda")).available
    with pytest.raises(UnsupportedModel, match="not a range"):
        open_stage(spec(folder, (2, 5)), lambda *_: None)


@pytest.mark.parametrize(
    "kind", [("none", "float32"), ("none", "bfloat16"), ("q8", "float16"), ("q4", "auto")], ids=str
)
@pytest.mark.parametrize(("family", "bounds"), [("gemma3", (0, 1)), ("gemma3", (1, 3)), ("qwen3_moe", (0, 3))])
def test_weights_take_the_bytes_that_were_foretold(
    kind: tuple[Any, str], family: str, bounds: tuple[int, int], tiny_model: Callable[[str], Any]
) -> None:
    quantization, dtype = kind
    asked = replace(spec(tiny_model(family).folder, bounds, CpuOptions(quantization=quantization)), dtype=dtype)
    foretold = CpuFactory().supports(asked).weight_bytes
    stage = open_stage(asked, lambda *_: None)
    stage.close()
    stage.close()

    assert stage.capacity.param_bytes == foretold


def test_progress_reaches_one(tiny_model: Callable[[str], Any]) -> None:
    told: list[float] = []
    open_stage(spec(tiny_model("llama").folder, (0, 2)), lambda fraction, _text: told.append(fraction)).close()

    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > NUM_LAYERS


def test_numbers_are_rounded_to_the_nearest() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.0e38, 0.0, 1e-40], np.float32)
    rounded = to_float32(to_bfloat16(values).view(np.uint8), _bf16())

    assert rounded.tolist()[:3] == [1.0, 1.0, 1.015625]
    assert np.allclose(rounded, values, rtol=2**-8, atol=1e-41)


def _bf16() -> Any:
    from histrio_cpu.abi import Format

    return Format.BF16


def spec(folder: str, bounds: tuple[int, int], options: CpuOptions | None = None) -> StageSpec:
    return StageSpec(folder, *bounds, NUM_LAYERS, device="cpu", options=options or CpuOptions())


def open_at(folder: Path, options: CpuOptions) -> CpuStage:
    return open_stage(spec(str(folder), (0, NUM_LAYERS), options), lambda *_: None)


def prompt_logits(folder: Path, quantization: str) -> Any:
    chain = StageChain(
        CpuFactory(), folder, (), HarnessOptions(dtype="float32", stage_options={"quantization": quantization})
    )
    logits = chain.step([ChainRow(0, [5, 6, 7, 8], 4)])
    assert logits is not None
    copied = logits.copy()
    chain.close()
    return copied


def greedy(folder: Path) -> list[int]:
    chain = StageChain(CpuFactory(), folder)
    tokens = chain.greedy([5, 6, 7, 8], 12)
    chain.close()
    return tokens
