"""What loading would refuse, a check refuses with the same words, and with no weights at hand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel
from histrio_torch.backend import open_stage
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import FAMILIES, MAX_LENGTH, NUM_LAYERS, OTHERS
from histrio_torch.testing.families import make_model_of

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "two attentions": ("diffllama", {}, "diffllama: layer 0 attends twice"),
    "mask": ("doge", {}, "doge: layer 0 makes an attention mask of its own"),
    "window": (
        "phimoe",
        {"num_local_experts": 4, "sliding_window": 16},
        "phimoe: layer 0 has window None in code but 16 .*max-sequence-length",
    ),
    "layers": ("modernbert-decoder", {}, "has 0 lists of 3 layers"),
}


@pytest.fixture(scope="module")
def checked() -> TorchFactory:
    """A factory that was asked about the machine, as a check asks it."""
    factory = TorchFactory()
    assert factory.probe().available
    return factory


@pytest.mark.parametrize("case", REFUSED)
def test_a_check_says_what_loading_would_say(case: str, checked: TorchFactory, tmp_path: Path) -> None:
    model_type, settings, words = REFUSED[case]
    make_model_of(model_type, tmp_path, **settings)
    spec = whole(tmp_path)

    answer = checked.supports(spec)
    assert not answer.available
    with pytest.raises(UnsupportedModel, match=words) as loading:
        open_stage(spec, lambda fraction, text: None)
    assert answer.reason == str(loading.value)
    assert TorchFactory().supports(spec).available, "without torch nothing of it is known"


@pytest.mark.parametrize("family", [*FAMILIES, *sorted(set(OTHERS) - {"nanochat"})])
def test_what_runs_passes_without_its_weights(
    family: str, checked: TorchFactory, tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    shutil.copy(Path(tiny_model(family).folder) / "config.json", tmp_path)
    for first, last in ((0, NUM_LAYERS), (1, 2)):
        answer = checked.supports(whole(tmp_path, first_layer=first, last_layer=last, has_weights=False))
        assert answer.available, answer.reason


def test_a_split_that_loading_would_refuse_is_refused(checked: TorchFactory, tiny_model: Callable[[str], Any]) -> None:
    folder = Path(tiny_model("nanochat").folder)

    assert checked.supports(whole(folder)).available
    assert "can't be split" in checked.supports(whole(folder, last_layer=1)).reason


def test_a_configuration_that_makes_no_model_is_refused(
    checked: TorchFactory, tiny_model: Callable[[str], Any]
) -> None:
    folder = Path(tiny_model("llama").folder)
    config = json.loads((folder / "config.json").read_text())
    odd = folder.parent / "odd"
    odd.mkdir()
    (odd / "config.json").write_text(json.dumps({**config, "hidden_act": "wave"}))

    assert "can't make this model" in checked.supports(whole(odd, has_weights=False)).reason


def test_weights_of_another_shape_are_refused(
    checked: TorchFactory, tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("llama").folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert checked.supports(whole(folder)).available
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] + 8}))

    reason = checked.supports(whole(folder)).reason
    assert "model.safetensors" in reason
    assert re.search(r"mlp\.(up|gate|down)_proj\.weight has the shape", reason)


@pytest.mark.parametrize("pad", [-1, 10**6])
def test_an_absurd_padding_matters_to_no_model(
    pad: int, checked: TorchFactory, tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    config = json.loads((Path(tiny_model("llama").folder) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": pad}))

    assert checked.supports(whole(tmp_path, has_weights=False)).available


def test_a_check_says_in_which_numbers_is_computed(checked: TorchFactory, tiny_model: Callable[[str], Any]) -> None:
    folder = Path(tiny_model("llama").folder)

    assert checked.supports(whole(folder)).dtype == "float32"
    assert checked.supports(whole(folder, dtype="bfloat16")).dtype == "bfloat16"
    assert checked.supports(whole(folder, has_weights=False)).dtype == ""
    assert TorchFactory().supports(whole(folder)).dtype == ""


@pytest.mark.parametrize(
    ("settings", "words"), [({"device": "abacus"}, "'abacus' is not here"), ({"dtype": "int3"}, "'int3' is unknown")]
)
def test_a_check_refuses_what_this_machine_or_torch_lacks(
    settings: dict[str, Any], words: str, checked: TorchFactory, tiny_model: Callable[[str], Any]
) -> None:
    answer = checked.supports(whole(Path(tiny_model("llama").folder), **settings))
    assert words in answer.reason
    assert not answer.available


def whole(folder: Path, **settings: Any) -> StageSpec:
    placement = {"first_layer": 0, "last_layer": NUM_LAYERS, "num_layers": NUM_LAYERS, **settings}
    return StageSpec(str(folder), max_sequence_length=MAX_LENGTH, **{"device": "cpu", **placement})
