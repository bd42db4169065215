"""A model folder as all backends read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError, ModelUnavailable, UnsupportedModel
from histrio.kit.checkpoint import (
    SMALL_CHECKPOINT_BYTES,
    check_range,
    checkpoint_bytes,
    choose_dtype,
    find_weight_files,
    num_layers,
    read_config,
    stage_dtype,
    stored_dtype,
)


def write(folder: Path, config: dict[str, Any], dtype: Any = np.float16, name: str = "model.safetensors") -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"layers.0.weight": np.zeros((2, 3), dtype)}, folder / name)
    return folder


def test_null_in_config_json_is_as_good_as_nothing(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, {"a": None, "b": 0})) == {"b": 0}


def test_layers_are_counted_under_every_name_also_of_the_model_in_a_wrapper() -> None:
    assert num_layers({"n_layer": 3}) == num_layers({"text_config": {"num_hidden_layers": 3}}) == 3
    with pytest.raises(UnsupportedModel, match=r"config\.json of a X has none of num_hidden_layers"):
        num_layers({"architectures": ["X"], "hidden_size": 3})


def test_a_range_lies_within_the_model() -> None:
    check_range(StageSpec("model", 0, 3, 3), 3)
    for first, last in ((0, 4), (2, 2), (-1, 1)):
        with pytest.raises(UnsupportedModel, match=f"layers {first}:{last} .*within 0:3"):
            check_range(StageSpec("model", first, last, 3), 3)


def test_files_of_other_names_are_those_of_a_loader_that_reads_them(tmp_path: Path) -> None:
    write(tmp_path, {}, name="model-1.safetensors")
    assert find_weight_files(tmp_path, "model*.safetensors") == [tmp_path / "model-1.safetensors"]
    with pytest.raises(ModelUnavailable, match=r"neither model\.safetensors nor"):
        find_weight_files(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"has no other\*"):
        find_weight_files(tmp_path, "other*")

    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert find_weight_files(tmp_path) == [tmp_path / "model-1.safetensors"]
    assert checkpoint_bytes(find_weight_files(tmp_path)) == (tmp_path / "model-1.safetensors").stat().st_size


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UnsupportedModel, match=r"only pickled weights \(pytorch_model.bin\)"):
        find_weight_files(tmp_path)


@pytest.mark.parametrize(
    ("config", "stored", "dtype"),
    [
        ({"dtype": "bfloat16"}, np.float16, "bfloat16"),
        ({"torch_dtype": "torch.float32"}, np.float16, "float32"),
        ({"text_config": {"dtype": "bfloat16"}}, np.float16, "bfloat16"),
        ({"dtype": "float64"}, np.float16, "float16"),
        ({}, np.float32, "float32"),
        ({"dtype": "bfloat16", "quantization_config": {}}, np.float16, "auto"),
    ],
)
def test_the_stored_dtype_is_the_one_that_is_named_or_that_of_the_first_tensor(
    config: dict[str, Any], stored: Any, dtype: str, tmp_path: Path
) -> None:
    assert stored_dtype(write(tmp_path, config, stored)) == dtype


def test_weights_that_are_no_floating_numbers_have_no_dtype_to_compute_in(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="stored as I8"):
        stored_dtype(write(tmp_path, {}, np.int8))


def test_a_small_checkpoint_is_computed_in_float32_on_a_cpu_unless_something_else_is_asked_for(tmp_path: Path) -> None:
    folder = str(write(tmp_path, {"dtype": "bfloat16"}))
    assert stage_dtype(StageSpec(folder, 0, 1, 1), on_cpu=True) == "float32"
    assert stage_dtype(StageSpec(folder, 0, 1, 1), on_cpu=False) == "bfloat16"
    assert stage_dtype(StageSpec(folder, 0, 1, 1, dtype="float16"), on_cpu=True) == "float16"
    with pytest.raises(BackendError, match="'int3' is unknown; use auto, float32"):
        stage_dtype(StageSpec(folder, 0, 1, 1, dtype="int3"), on_cpu=True)

    assert choose_dtype("auto", lambda: "bfloat16", SMALL_CHECKPOINT_BYTES - 1) == "float32"
    assert choose_dtype("auto", lambda: "bfloat16", SMALL_CHECKPOINT_BYTES) == "bfloat16"
