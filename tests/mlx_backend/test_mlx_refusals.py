"""What can't run is refused by name, before weights are read; the factory answers without mlx."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histrio.config.settings import MemorySettings, SizeSettings
from histrio.contracts.backend import CONTRACT, BackendFactory, Capability, StageSpec
from histrio.errors import BackendError, DoesNotFit, ModelError, ModelUnavailable, UnsupportedModel
from histrio.testing.chain import ChainRow
from histrio_mlx import plugin
from histrio_mlx.factory import MlxFactory
from histrio_mlx.families import Family
from histrio_mlx.testing import NUM_LAYERS, MlxChain

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 16,
}
CHILD = """
import sys
from histrio.contracts.backend import StageSpec
from histrio_mlx import plugin
found = []
plugin.register_backends(found.append)
probe = found[0].supports(StageSpec(sys.argv[1], 0, 2, 4))
assert probe.available, probe
assert not {"mlx", "mlx_lm", "torch", "transformers"} & set(sys.modules)
"""


def test_the_hook_registers_a_factory_named_mlx() -> None:
    found: list[BackendFactory] = []
    plugin.register_backends(found.append)

    assert [factory.name for factory in found] == ["mlx"]
    assert found[0].traits.contract == CONTRACT
    assert Capability.ADAPTERS in found[0].traits.capabilities


def test_the_probe_names_the_cpu() -> None:
    probe = MlxFactory().probe()
    assert probe.available
    assert probe.devices[-1] == "cpu"


def test_support_is_told_without_importing_mlx(mlx_model: Callable[..., Any]) -> None:
    subprocess.run([sys.executable, "-c", CHILD, str(mlx_model("llama").folder)], check=True, timeout=60)


CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown": ({"model_type": "nonesuch", "num_hidden_layers": 2}, {}, "no model of type 'nonesuch'"),
    "nameless": ({"num_hidden_layers": 2}, {}, "names no model_type"),
    "layerless": ({"model_type": "llama"}, {}, "num_hidden_layers"),
    "range": (LLAMA, {"last_layer": 3}, "2 layers"),
    "dynamic": (
        {**LLAMA, "max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"max_sequence_length": 65},
        "64 or less",
    ),
    "pattern": (
        {"model_type": "gemma3_text", "num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]},
        {},
        "every so manieth",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_cannot_run_are_refused(name: str, tmp_path: Path) -> None:
    config, settings, words = CONFIGS[name]
    write_model(tmp_path, config)
    spec = StageSpec(**{"model": str(tmp_path), "first_layer": 0, "last_layer": 2, "num_layers": 2, **settings})

    probe = MlxFactory().supports(spec)
    assert not probe.available
    assert words in probe.reason
    assert probe.remedy
    with pytest.raises(ModelError, match=words):
        MlxFactory().open(spec, lambda fraction, text: None)


def test_behind_a_probe_the_model_is_tried_without_reading_its_weights(
    mlx_model: Callable[..., Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(mlx_model("llama").folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    spec = StageSpec(str(folder), 0, NUM_LAYERS, NUM_LAYERS, device="cpu")
    factory = MlxFactory()
    assert factory.supports(spec).dtype == "", "nothing was imported to find out"
    assert factory.probe().available
    assert factory.supports(spec).dtype == "float32"

    save_file(
        {**weights, "model.layers.1.surprise": weights["model.norm.weight"].clone()}, folder / "model.safetensors"
    )
    assert "surprise" in factory.supports(spec).reason
    assert MlxFactory().supports(spec).available, "only a rehearsal sees it"


def test_dynamic_positions_within_the_trained_length_are_plain(tmp_path: Path) -> None:
    write_model(tmp_path, CONFIGS["dynamic"][0])
    assert MlxFactory().supports(StageSpec(str(tmp_path), 0, 2, 2, max_sequence_length=64)).available


def test_an_untested_family_runs_unsplit_row_by_row_and_says_so(
    mlx_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("histrio_mlx.traits.find_family", lambda model_type: None)
    tiny = mlx_model("llama")
    references = [tiny.refer(seed, length, 4) for seed, length in enumerate((9, 9, 3))]
    with caplog.at_level(logging.WARNING):
        chain = MlxChain(tiny.folder)
    logits = chain.step([ChainRow(slot, reference.ids) for slot, reference in enumerate(references)])

    assert logits is not None
    assert logits.argmax(-1).tolist() == [reference.tokens[0] for reference in references]
    assert "never tested" in caplog.text
    with pytest.raises(UnsupportedModel, match="llama was never tested in parts"):
        MlxChain(tiny.folder, (2,))
    chain.close()


def test_a_family_that_was_found_not_to_split_is_refused_in_parts(
    mlx_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Family(runs=True, reason="its layers talk")
    monkeypatch.setattr("histrio_mlx.traits.find_family", lambda model_type: record)
    spec = StageSpec(str(mlx_model("llama").folder), 0, 2, NUM_LAYERS)

    assert "its layers talk" in MlxFactory().supports(spec).reason
    monkeypatch.setattr("histrio_mlx.traits.find_family", lambda model_type: Family(reason="it is broken"))
    assert "it is broken" in MlxFactory().supports(spec).reason


def test_windows_that_mlx_lm_overlooks_are_refused_where_they_matter(mlx_model: Callable[..., Any]) -> None:
    folder = mlx_model("gemma2").folder
    with pytest.raises(UnsupportedModel, match="max-sequence-length to 64 or less"):
        MlxChain(folder, max_sequence_length=65)
    MlxChain(folder, max_sequence_length=64).close()


def test_pickled_and_missing_weights_are_named(tmp_path: Path) -> None:
    write_model(tmp_path, LLAMA)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"pytorch_model\.bin"):
        open_stage(tmp_path)

    (tmp_path / "pytorch_model.bin").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnavailable, match=r"lacks 1 of the 2 weight files .*first model-00002"):
        open_stage(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"config\.json is missing"):
        open_stage(tmp_path / "nowhere")


def test_missing_weights_are_named_by_the_stage_that_needs_them(mlx_model: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(mlx_model("llama").folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"lacks 1 weights of this stage, first model\.layers\.1\.mlp\.up"):
        open_stage(folder, NUM_LAYERS)
    later = StageSpec(str(folder), 2, 4, NUM_LAYERS, device="cpu")
    MlxFactory().open(later, lambda fraction, text: None).close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": MemorySettings(param_mem_ratio=1e-9)}, "param-mem-ratio"),
        ({"block_mem_ratio": 1e-9}, "kvcache-mem-ratio"),
        ({"sizes": SizeSettings(num_cache_blocks=10**12)}, "1000000000000 blocks"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(
    settings: dict[str, Any], words: str, mlx_model: Callable[..., Any]
) -> None:
    with pytest.raises(DoesNotFit, match=words) as caught:
        open_stage(mlx_model("llama").folder, NUM_LAYERS, **settings)
    assert "GiB" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"device": "abacus"}, "abacus"), ({"dtype": "int3"}, "int3")],
)
def test_unknown_settings_are_refused(settings: dict[str, Any], words: str, mlx_model: Callable[..., Any]) -> None:
    with pytest.raises(BackendError, match=words):
        open_stage(mlx_model("llama").folder, NUM_LAYERS, **settings)


def test_a_gpu_that_is_not_there_is_refused(mlx_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histrio_mlx.devices.devices", lambda: ["cpu"])
    with pytest.raises(BackendError, match="Apple Silicon"):
        open_stage(mlx_model("llama").folder, NUM_LAYERS, device="gpu")


def write_model(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()


def open_stage(folder: Path, num_layers: int = 2, **settings: Any) -> None:
    spec = StageSpec(str(folder), 0, num_layers, num_layers, **{"device": "cpu", **settings})
    MlxFactory().open(spec, lambda *_: None).close()
