"""Which draft models and backends are taken, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histrio.config.locate import DEMO_DRAFT, locate_model
from histrio.config.topology import parse_tables
from histrio.contracts.backend import Capability, Probe, Traits
from histrio.contracts.drafter import DrafterFactory, DrafterSpec
from histrio.demo import draft_path, target_path
from histrio.errors import ModelUnavailable, TopologyError
from histrio.plan.draft import drafter_tools
from histrio.plan.resolve import resolve
from histrio.plugins.registry import Plugins, installed_plugins
from histrio.testing.models import write_model, write_tokenizer
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_speculative.draft_model import DraftModelFactory
from histrio_speculative.early_exit import EarlyExitFactory

INSTALLED = drafter_tools(installed_plugins())


def spec(model: Path, options: dict[str, Any], **others: Any) -> DrafterSpec:
    settings = {"num_layers": 6, "vocab_size": 2560, "max_batch_size": 8, "max_sequence_length": 256, "max_draft": 8}
    return DrafterSpec(model=str(model), options=options, **{**settings, **others})


def supports(spec: DrafterSpec) -> Probe:
    return DraftModelFactory().supports(spec, INSTALLED)


def refusal(model: Path, options: dict[str, Any], **others: Any) -> str:
    answer = supports(spec(model, options, **others))
    assert not answer.available
    assert answer.remedy
    return f"{answer.reason}; {answer.remedy}"


def test_the_demo_models_fit_each_other() -> None:
    assert locate_model(DEMO_DRAFT) == draft_path()
    assert supports(spec(target_path(), {"model": "demo-draft"})).available


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
    assert supports(spec(one, {"model": str(other)})).available


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
    assert supports(spec(tmp_path / "target", {"model": str(folder)})).available, "a control"


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    text = refusal(target_path(), {"model": "demo-draft", "backend": "toch"})
    assert "there is no backend 'toch'" in text
    assert "torch (by" in text
    assert "drafter-options.backend" in text


@pytest.mark.parametrize("capability", [Capability.OWN_PROCESS, Capability.ONE_STAGE_PER_PROCESS])
def test_a_backend_that_shares_no_process_is_refused(capability: Capability, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyFactory, "traits", Traits(contract=1, capabilities=[capability]))
    assert "a drafter runs in the engine process" in refusal(target_path(), {"model": "demo-draft", "backend": "toy"})


def test_backends_are_looked_up_where_the_caller_says() -> None:
    """Plugins that are not installed count, and those that are do not."""
    plugins = Plugins()
    plugins.backends.add("mine", ToyFactory(), "a test")
    tools = drafter_tools(plugins)
    cases: list[tuple[DrafterFactory, dict[str, Any]]] = [
        (DraftModelFactory(), {"model": "demo-draft"}),
        (EarlyExitFactory(), {}),
    ]
    for factory, options in cases:
        mine = spec(target_path(), {**options, "backend": "mine"})
        torch = spec(target_path(), {**options, "backend": "torch"})
        assert factory.supports(mine, tools).available
        assert "there is no backend 'torch'" in factory.supports(torch, tools).reason
        assert factory.supports(torch, INSTALLED).available, "a control"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the hub is asked; its answer is `demo-draft`."""
    asked: list[dict[str, Any]] = []

    def locate(path: str, **settings: Any) -> Path:
        asked.append({"path": path} | settings)
        return draft_path()

    monkeypatch.setattr("histrio_speculative.draft_model.locate_model", locate)
    monkeypatch.setattr("histrio_speculative.draft_model.bring_up", lambda *_arguments: None)
    return asked


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("revision", [None, "v2"])
def test_the_hub_is_asked_as_the_topology_says(
    asked: list[dict[str, Any]], offline: bool, revision: str | None
) -> None:
    options = {"model": "owner/name"} | ({"revision": revision} if revision else {})
    expected = spec(target_path(), options, offline=offline)
    assert supports(expected).available
    DraftModelFactory().create(expected, INSTALLED)
    same = {"path": "owner/name", "revision": revision, "offline": offline}
    assert asked == [same | {"weights": False}, same | {"weights": True}]


@pytest.mark.parametrize("offline", [False, True])
def test_a_topology_that_is_offline_keeps_the_draft_model_from_the_hub(
    asked: list[dict[str, Any]], offline: bool
) -> None:
    tables = {
        "model": {"path": "demo", "offline": offline},
        "engine": {"drafter": "draft-model", "drafter-options": {"model": "owner/name"}},
    }
    plan = resolve(parse_tables(tables), installed_plugins())
    assert plan.drafter_spec is not None
    assert plan.drafter_spec.offline is offline
    assert [each["offline"] for each in asked] == [offline]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, r"engine\.drafter-options\.model"),
        ({"model": "demo-draft", "revision": ""}, r"engine\.drafter-options\.revision"),
        ({"model": "demo-draft", "layers": 3}, r"engine\.drafter-options\.layers"),
        ({"model": "demo-draft", "num-cache-tokens": 0}, r"engine\.drafter-options\.num-cache-tokens"),
    ],
)
def test_mistakes_in_the_options_are_named(options: dict[str, Any], where: str) -> None:
    with pytest.raises(TopologyError, match=where):
        supports(spec(target_path(), options))


def test_early_exit_needs_a_layer_that_it_can_leave_out() -> None:
    factory = EarlyExitFactory()
    assert factory.supports(spec(target_path(), {"layers": 5}), INSTALLED).available
    assert factory.supports(spec(target_path(), {}, num_layers=2), INSTALLED).available
    answer = factory.supports(spec(target_path(), {"layers": 6}), INSTALLED)
    assert answer.reason == "the model has 6 layers, and 6 of them shall draft"
    assert "drafter-options.layers" in answer.remedy
    assert not factory.supports(spec(target_path(), {}, num_layers=1), INSTALLED).available


def test_both_are_registered_by_their_plugin() -> None:
    drafters = installed_plugins().drafters
    assert drafters.get("draft-model").name == "draft-model"
    assert drafters.get("early-exit").name == "early-exit"


def test_a_missing_draft_model_of_the_wheel_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("histrio.demo.draft_path", lambda: tmp_path)
    with pytest.raises(ModelUnavailable, match="does not contain the demo model"):
        locate_model(DEMO_DRAFT)
