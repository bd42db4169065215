"""What the backend refuses, and how it cuts a model, told without SGLang."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from histrio.contracts.backend import Capability, StageSpec
from histrio.errors import BackendError, HistrioError
from histrio.kit.checkpoint import stage_dtype
from histrio_sglang import versions
from histrio_sglang.factory import SglangFactory
from histrio_sglang.options import StageOptions, read_options
from histrio_sglang.versions import check_version
from histrio_sglang.virtual_rank import VirtualGroup, VirtualRank, virtual_rank
from histrio_sglang.weights import link_model, weight_bytes
from histrio_torch.testing import NUM_LAYERS, make_model

PARTITION = "SGLANG_PP_LAYER_PARTITION"


def spec_of(folder: Path, first: int, last: int, **settings: Any) -> StageSpec:
    return StageSpec(str(folder), first, last, NUM_LAYERS, **{"device": "cpu", **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in several weight files."""
    path = tmp_path_factory.mktemp("sharded")
    make_model("llama", path, max_shard_size="40KB")
    return path


@pytest.mark.parametrize("release", ["0.5.17", "0.5.19.post1", "0.5.21", "0.5.23+cu130"])
def test_tested_releases_are_accepted(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: release)
    check_version(force=False)


@pytest.mark.parametrize("release", ["0.5.16", "0.5.9", "0.5.24", "0.6.0"])
def test_other_releases_need_force(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: release)
    with pytest.raises(BackendError, match=r"was tested with 0\.5\.17 to 0\.5\.23.*force-version = true"):
        check_version(force=False)
    check_version(force=True)


def test_without_sglang_nothing_can_be_forced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: None)
    with pytest.raises(BackendError, match="not installed"):
        check_version(force=True)
    assert "not installed" in SglangFactory().supports(spec_of(folder, 0, 1)).reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attention_backend": "fa3"}, "attention_backend.*Known keys: attention-backend"),
        ({"page-size": -1}, "page-size"),
        ({"mem-fraction-static": 1.5}, "mem-fraction-static"),
        ({"moe-runner-backend": 3}, "moe-runner-backend"),
        ({"tp-size": 2}, "tp-size = 2: a stage .* runs on one device"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(HistrioError, match=reason):
        read_options(options)


def test_all_options_are_read() -> None:
    read = read_options(
        {
            "attention-backend": "triton",
            "moe-runner-backend": "triton",
            "tp-size": 1,
            "page-size": 64,
            "mem-fraction-static": 0.8,
            "cuda-graphs": True,
            "force-version": True,
        }
    )
    assert (read.attention_backend, read.page_size, read.mem_fraction_static) == ("triton", 64, 0.8)
    assert read != read_options({})


def test_one_stage_takes_a_process_for_itself() -> None:
    assert Capability.ONE_STAGE_PER_PROCESS in SglangFactory.traits.capabilities


@pytest.mark.parametrize(
    ("first", "last", "rank"),
    [(0, 3, VirtualRank(0, (3,))), (0, 1, VirtualRank(0, (1, 2))), (2, 3, VirtualRank(1, (2, 1)))],
)
def test_a_range_is_a_rank_of_a_pipeline(first: int, last: int, rank: VirtualRank) -> None:
    assert virtual_rank(spec_of(Path(), first, last)) == rank


def test_the_partition_is_announced_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARTITION, "of the user")
    middle = virtual_rank(spec_of(Path(), 1, 2))
    middle.announce()
    assert os.environ[PARTITION] == "1,1,1"

    group = VirtualGroup(torch, middle)
    assert (group.is_first_rank, group.is_last_rank, group.rank_in_group, group.world_size) == (False, False, 1, 3)
    assert group.get_num_threads == torch.get_num_threads, "everything else is asked of the real group"
    virtual_rank(spec_of(Path(), 0, NUM_LAYERS)).announce()
    assert PARTITION not in os.environ


def test_a_stage_links_the_weight_files_of_its_layers_alone(folder: Path, tmp_path: Path) -> None:
    whole = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    middle = link_model(spec_of(folder, 1, 2), tmp_path)
    linked = json.loads((middle / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    own = {file for name, file in whole.items() if ".layers.1." in name}
    assert own <= set(linked.values()) < set(whole.values()), "a control: the whole model has more files"
    assert {path.name for path in middle.glob("*.safetensors")} == set(linked.values())
    assert (middle / "config.json").read_text() == (folder / "config.json").read_text()
    assert all(path.is_symlink() for path in middle.glob("*.safetensors"))


def test_weights_are_counted_as_they_are_loaded(folder: Path) -> None:
    spec = spec_of(folder, 0, NUM_LAYERS)
    assert stage_dtype(spec, on_cpu=True) == "float32"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert stage_dtype(spec, on_cpu=False) == config["dtype"] == "float32"
    assert stage_dtype(spec_of(folder, 0, 1, dtype="bfloat16"), on_cpu=True) == "bfloat16"
    assert weight_bytes(spec, "bfloat16") * 2 == weight_bytes(spec, "float32") == weight_bytes(spec, "auto")
    parts = [weight_bytes(spec_of(folder, layer, layer + 1), "float32") for layer in range(NUM_LAYERS)]
    assert sum(parts) == weight_bytes(spec, "float32")


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sglang.md").read_text(encoding="utf-8")
    names = [field.encode_name for field in msgspec.structs.fields(StageOptions)]
    assert "tp-size" in names
    assert [name for name in names if f"| `{name}` |" not in page] == []
