"""A weight that no file has is found before anything starts, by its name and that of the file it should be in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import cast

import pytest

from histrio.contracts.backend import BackendFactory, StageSpec
from histrio.errors import HistrioError
from histrio.plugins.registry import installed_plugins
from histrio.testing.models import write_model

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(params=["torch", "cpu", "mlx"])
def factory(request: pytest.FixtureRequest) -> BackendFactory:
    backends = installed_plugins().backends
    if request.param not in backends:
        pytest.skip(f"the backend {request.param} is not installed")
    found = backends.get(request.param)
    machine = found.probe()
    if not machine.available:
        pytest.skip(machine.reason)
    assert found.traits.level == "stage"
    return cast(BackendFactory, found)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_model("llama", tmp_path / "whole")


def without(whole: Path, *, is_indexed: bool) -> Path:
    """A copy that lacks the tensor; with an index it says in which file that should be."""
    from safetensors.numpy import load_file, save_file

    folder = whole.with_name("lacking")
    shutil.copytree(whole, folder)
    tensors = load_file(folder / "model.safetensors")
    file = "model-00001-of-00001.safetensors" if is_indexed else "model.safetensors"
    if is_indexed:
        (folder / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, file)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    del tensors[NAME]
    save_file(tensors, folder / file, metadata={"format": "pt"})
    return folder / file


def stage(folder: Path, first: int, last: int) -> StageSpec:
    return StageSpec(
        model=str(folder), first_layer=first, last_layer=last, num_layers=3, dtype="float32", max_sequence_length=256
    )


@pytest.mark.parametrize("is_indexed", [False, True])
def test_a_missing_weight_is_told_by_a_check_as_by_a_start(
    factory: BackendFactory, whole: Path, is_indexed: bool
) -> None:
    file = without(whole, is_indexed=is_indexed)
    for first, last in ((0, 3), (1, 2)):
        told = factory.supports(stage(file.parent, first, last))
        assert not told.available
        assert told.reason.startswith(f"{file} lacks 1 weights of this stage, first {NAME}")
        with pytest.raises(HistrioError, match=NAME):
            factory.open(stage(file.parent, first, last), lambda _fraction, _what: None)
    assert factory.supports(stage(whole, 0, 3)).available, "control"
    assert factory.supports(stage(file.parent, 2, 3)).available, "control: the weight of another stage"
