"""The first layers of a model with its last norm and head, as a model of their own: transformers says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histrio.contracts.backend import OpenedStage, Progress, StageSpec, StepBatch
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.demo import target_path
from histrio.messages import Ask, Generate, ReplicaSize
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio.testing.models import write_model
from histrio_samplers.plugin import SAMPLERS
from histrio_speculative.early_exit import EarlyExitFactory, first_layers
from histrio_torch.factory import TorchFactory

pytestmark = pytest.mark.timeout(90)  # the first of them imports torch and transformers

PROMPT = [1, 7, 2, 90, 4, 4, 30, 11]


def logits_of_exit(folder: Path, num_layers: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[tokens, vocab] by transformers: the last norm and the head after so many layers of the whole model."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        hidden = model(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states[num_layers]
        logits: np.ndarray[Any, np.dtype[np.float32]] = model.lm_head(model.model.norm(hidden))[0].numpy()
    return logits


def logits_of_backend(folder: Path, num_layers: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    spec = StageSpec(str(folder), 0, num_layers, num_layers, dtype="float32")
    stage = TorchFactory().open(spec, lambda _share, _text: None)
    backend = stage.allocate(ReplicaSize(1, 16, 1, 64, 16))
    num = len(PROMPT)
    one = np.zeros(1, np.int32)
    batch = StepBatch(
        slots=one,
        starts=one,
        num_tokens=one + num,
        num_sampled=one + num,
        offsets=np.array([0, num], np.int32),
        block_tables=np.zeros((1, 1), np.int32),
        positions=np.arange(num, dtype=np.int64),
        token_ids=np.array(PROMPT, np.int64),
        hidden=[],
    )
    logits = stage.xp.to_host(backend.step(batch).logits)
    stage.close()
    return np.asarray(logits, np.float32)


@pytest.mark.parametrize("name", ["llama", "qwen3_tied", "demo"])
def test_the_first_layers_say_what_transformers_says_after_them(name: str, tmp_path: Path) -> None:
    folder = target_path() if name == "demo" else write_model(name, tmp_path / name, seed=3)
    with first_layers(folder, 2) as shorter:
        got = logits_of_backend(shorter, 2)
    expected = logits_of_exit(folder, 2)
    assert np.abs(got - expected).max() < 1e-3 * np.abs(expected).max()
    other = logits_of_exit(folder, 1)
    assert np.abs(got - other).max() > 0.1 * np.abs(other).max(), "a control: another exit"


def test_lists_with_an_entry_for_each_layer_are_cut_wherever_they_stand(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 4, "layer_types": list("abcd"), "eos_token_id": [1, 2]}
    for name, config in {"plain": text, "nested": {"vision_config": {"num_layers": 4}, "text_config": text}}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"weights")
        with first_layers(folder, 3) as shorter:
            found = json.loads((shorter / "config.json").read_text())
            assert (shorter / "model.safetensors").read_bytes() == b"weights"
        cut = {"num_hidden_layers": 3, "layer_types": list("abc"), "eos_token_id": [1, 2]}
        assert found == (cut if name == "plain" else {**config, "text_config": cut})
        assert not shorter.exists()
        assert json.loads((folder / "config.json").read_text()) == config, "the model itself stays as it is"


def test_a_quarter_of_the_layers_draft_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[StageSpec] = []
    factory = TorchFactory()
    plain_open = factory.open

    def watch(spec: StageSpec, progress: Progress) -> OpenedStage:
        opened.append(spec)
        return plain_open(spec, progress)

    monkeypatch.setattr(factory, "open", watch)
    spec = DrafterSpec(
        model=str(target_path()),
        num_layers=6,
        vocab_size=2560,
        max_batch_size=2,
        max_sequence_length=128,
        max_draft=4,
        dtype="float32",
    )
    tools = DrafterTools(lambda _name: factory, lambda max_slots: SamplerChain(list(SAMPLERS), max_slots))
    drafter = EarlyExitFactory().create(spec, tools)
    assert (opened[0].first_layer, opened[0].last_layer, opened[0].num_layers) == (0, 1, 1)
    drafter.open(Generate(1, PROMPT, len(PROMPT), 100, Ask({"temperature": 0.0})), PROMPT)
    (draft,) = drafter.propose({1: 1}).values()
    assert draft.ids == [int(logits_of_exit(target_path(), 1)[-1].argmax())]
    drafter.shutdown()
