"""Which draft models and backends are taken, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histrio.backend import Capability, Traits
from histrio.demo import draft_path, target_path
from histrio.drafting import DrafterSpec
from histrio.errors import ModelUnavailable, TopologyError
from histrio.models import DEMO_DRAFT, locate_model
from histrio.plugins import installed_plugins
from histrio.testing.models import write_model, write_tokenizer
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_speculative.draft_model import DraftModelFactory
from histrio_speculative.early_exit import EarlyExitFactory


def spec(model: Path, options: dict[str, Any], **others: Any) -> DrafterSpec:
    settings = {"num_layers": 6, "vocab_size": 2560, "max_rows": 8, "max_sequence_length": 256, "max_draft": 8}
    return DrafterSpec(model=str(model), options=options, **{**settings, **others})


def refusal(model: Path, options: dict[str, Any], **others: Any) -> str:
    answer = DraftModelFactory().supports(spec(model, options, **others))
    assert not answer.available
    assert answer.remedy
    return f"{answer.reason}; {answer.remedy}"


def test_the_demo_models_fit_each_other() -> None:
    assert locate_model(DEMO_DRAFT) == draft_path()
    assert DraftModelFactory().supports(spec(target_path(), {"model": "demo-draft"})).available


def test_other_tokens_are_refused_by_name(tmp_path: Path) -> None:
    one, other = write_model("llama", tmp_path / "one"), write_model("llama", tmp_path / "other")
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    vocab = content["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    file.write_text(json.dumps(content))
    text = refusal(one, {"model": str(other)})
    assert f"has other tokens than the model it drafts for: token {vocab['B']} is 'B' there and 'A' here" in text
    assert "one of the same family" in text


def test_a_model_that_knows_few_of_the_tokens_is_refused(tmp_path: Path) -> None:
    other = write_model("llama", tmp_path / "other")
    assert "it knows 256 of 25" in refusal(target_path(), {"model": str(other)})


def test_added_tokens_may_differ(tmp_path: Path) -> None:
    one, other = write_model("llama", tmp_path / "one"), write_model("llama", tmp_path / "other")
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"][0]["content"] = "<|begin|>"
    file.write_text(json.dumps(content))
    assert DraftModelFactory().supports(spec(one, {"model": str(other)})).available


def test_a_shorter_model_is_refused_with_the_numbers() -> None:
    text = refusal(target_path(), {"model": "demo-draft"}, max_sequence_length=5000)
    assert "ends at 4096 tokens; set max-sequence-length to at most that (it is 5000)" in text


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert f"there is no folder {tmp_path}/none" in refusal(target_path(), {"model": f"{tmp_path}/none"})


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy")
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors" in refusal(write_toy_model(tmp_path / "target"), {"model": str(folder)})


def test_a_model_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy")
    (folder / "tokenizer.json").unlink()
    text = refusal(write_toy_model(tmp_path / "target"), {"model": str(folder)})
    assert "cannot be compared" in text
    write_tokenizer(folder)
    assert DraftModelFactory().supports(spec(tmp_path / "target", {"model": str(folder)})).available, "a control"


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    text = refusal(target_path(), {"model": "demo-draft", "backend": "toch"})
    assert "there is no backend 'toch'" in text
    assert "torch (by" in text
    assert "drafter-options.backend" in text


@pytest.mark.parametrize("capability", [Capability.OWN_PROCESS, Capability.ONE_STAGE_PER_PROCESS])
def test_a_backend_that_shares_no_process_is_refused(capability: Capability, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyFactory, "traits", Traits(contract=1, capabilities=[capability]))
    assert "a drafter runs beside the engine" in refusal(target_path(), {"model": "demo-draft", "backend": "toy"})


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, r"engine\.drafter-options\.model"),
        ({"model": "demo-draft", "layers": 3}, r"engine\.drafter-options\.layers"),
        ({"model": "demo-draft", "num-cache-tokens": 0}, r"engine\.drafter-options\.num-cache-tokens"),
    ],
)
def test_mistakes_in_the_options_are_named(options: dict[str, Any], where: str) -> None:
    with pytest.raises(TopologyError, match=where):
        DraftModelFactory().supports(spec(target_path(), options))


def test_early_exit_needs_a_layer_that_it_can_leave_out() -> None:
    factory = EarlyExitFactory()
    assert factory.supports(spec(target_path(), {"layers": 5})).available
    assert factory.supports(spec(target_path(), {}, num_layers=2)).available
    answer = factory.supports(spec(target_path(), {"layers": 6}))
    assert answer.reason == "the model has 6 layers, and 6 of them shall draft"
    assert "drafter-options.layers" in answer.remedy
    assert not factory.supports(spec(target_path(), {}, num_layers=1)).available


def test_both_are_registered_by_their_plugin() -> None:
    drafters = installed_plugins().drafters
    assert drafters.get("draft-model").name == "draft-model"
    assert drafters.get("early-exit").name == "early-exit"


def test_a_missing_draft_model_of_the_wheel_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("histrio.demo.draft_path", lambda: tmp_path)
    with pytest.raises(ModelUnavailable, match="does not contain the demo model"):
        locate_model(DEMO_DRAFT)
