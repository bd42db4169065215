"""Encoders on torch: transformers, one text at a time, is the judge of every type that is named as running."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histrio.contracts.backend import Capability, OpenedStage, ReplicaSize, StageSpec, StepBatch
from histrio.errors import BackendError
from histrio.kit.checkpoint import num_layers, read_config
from histrio_torch.encoder import similar_lengths
from histrio_torch.encoder_families import ENCODERS
from histrio_torch.factory import TorchFactory
from histrio_torch.testing.encoders import ENCODER_LENGTH, make_encoder, states_of

pytestmark = pytest.mark.timeout(90)  # imports transformers' model code

MOST_ERROR = 1e-5
SIZE = ReplicaSize(num_blocks=64, block_size=16, max_slots=8, max_step_tokens=256, max_sequence_length=ENCODER_LENGTH)
TEXTS = [[(7 * at + 3 * nth) % 150 + 5 for at in range(length)] for nth, length in enumerate((50, 3, 1, 64, 20, 19))]
TYPES = [[int(at >= len(text) // 2) for at in range(len(text))] for text in TEXTS]


def batch_of(texts: Sequence[Sequence[int]], num_pooled: Sequence[int], types: Any = None) -> StepBatch:
    counts = np.array([len(text) for text in texts], np.int32)
    zeros = np.zeros_like(counts)
    return StepBatch(
        slots=np.arange(len(texts), dtype=np.int32),
        starts=zeros,
        num_tokens=counts,
        num_sampled=zeros,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        block_tables=np.zeros((len(texts), 1), np.int32),
        positions=np.concatenate([np.arange(count) for count in counts]),
        token_ids=np.concatenate(texts).astype(np.int64),
        hidden=[],
        num_pooled=np.array(num_pooled, np.int32),
        token_types=None if types is None else np.concatenate(types).astype(np.int32),
    )


def spec_of(folder: Path, last_layer: int | None = None) -> StageSpec:
    count = num_layers(read_config(folder))
    return StageSpec(str(folder), 0, last_layer or count, count, device="cpu", max_sequence_length=ENCODER_LENGTH)


def opened(folder: Path) -> OpenedStage:
    return TorchFactory().open(spec_of(folder), lambda _fraction, _text: None)


def computed(folder: Path, batch: StepBatch) -> Any:
    stage = opened(folder)
    try:
        states = stage.allocate(SIZE).step(batch).states
        return None if states is None else stage.xp.to_host(states).astype(np.float64)
    finally:
        stage.close()


def has_types(model: Any) -> bool:
    return "token_type_ids" in inspect.signature(model.forward).parameters and model.config.type_vocab_size > 1


@pytest.mark.parametrize("model_type", ENCODERS)
def test_texts_of_all_lengths_at_once_are_as_each_alone(tmp_path: Path, model_type: str) -> None:
    model = make_encoder(model_type, tmp_path)
    found = computed(tmp_path, batch_of(TEXTS, [len(text) for text in TEXTS], TYPES))
    expected = [
        states_of(model, text, types if has_types(model) else None) for text, types in zip(TEXTS, TYPES, strict=True)
    ]
    assert np.abs(found - np.concatenate(expected)).max() <= MOST_ERROR
    assert np.abs(states_of(model, TEXTS[0])[0] - states_of(model, TEXTS[0][:-1])[0]).max() > 0.01, (
        "a control: the first token sees the last one"
    )


@pytest.mark.parametrize("model_type", ENCODERS)
def test_scores_are_those_of_the_models_own_head(tmp_path: Path, model_type: str) -> None:
    model = make_encoder(model_type, tmp_path, scores=True)
    found = computed(tmp_path, batch_of(TEXTS, [1] * len(TEXTS), TYPES))
    expected = [
        states_of(model, text, types if has_types(model) else None) for text, types in zip(TEXTS, TYPES, strict=True)
    ]
    assert found.shape == (len(TEXTS), 1)
    assert np.abs(found - np.stack(expected)).max() <= MOST_ERROR
    assert np.ptp(found) > 0.01, "a control: texts differ"


def test_token_types_count_where_the_model_has_them(tmp_path: Path) -> None:
    make_encoder("bert", tmp_path)
    counts = [len(text) for text in TEXTS]
    one, two = (computed(tmp_path, batch_of(TEXTS, counts, types)) for types in (None, TYPES))
    assert np.abs(one - two).max() > 0.01


def test_only_the_trailing_positions_that_are_asked_for_come(tmp_path: Path) -> None:
    make_encoder("bert", tmp_path)
    everything = computed(tmp_path, batch_of(TEXTS, [len(text) for text in TEXTS]))
    ends = np.cumsum([len(text) for text in TEXTS])
    found = computed(tmp_path, batch_of(TEXTS, [1, 0, 1, 2, 0, 1]))
    rows = [ends[0] - 1, ends[2] - 1, ends[3] - 2, ends[3] - 1, ends[5] - 1]
    assert np.abs(found - everything[rows]).max() <= MOST_ERROR
    assert computed(tmp_path, batch_of(TEXTS, [0] * 6)) is None


def test_a_part_of_a_text_is_refused(tmp_path: Path) -> None:
    make_encoder("bert", tmp_path)
    batch = batch_of(TEXTS, [1] * 6)
    batch.starts[2] = 5
    with pytest.raises(BackendError, match="whole texts"):
        computed(tmp_path, batch)


def test_a_checkpoint_of_a_model_that_was_trained_on_hidden_tokens_runs_without_its_head(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel, BertForMaskedLM

    make_encoder("bert", tmp_path / "base")
    config = AutoConfig.from_pretrained(tmp_path / "base")
    BertForMaskedLM(config).save_pretrained(tmp_path / "masked")
    model = AutoModel.from_pretrained(tmp_path / "masked").eval()
    found = computed(tmp_path / "masked", batch_of(TEXTS, [len(text) for text in TEXTS]))
    assert np.abs(found - np.concatenate([states_of(model, text) for text in TEXTS])).max() <= MOST_ERROR


@pytest.mark.parametrize("scores", [False, True])
def test_a_check_says_what_a_start_will_find(tmp_path: Path, scores: bool) -> None:
    make_encoder("bert", tmp_path, scores=scores)
    factory = TorchFactory()
    blind = factory.supports(spec_of(tmp_path))
    assert factory.probe().available
    probe = factory.supports(spec_of(tmp_path))
    stage = opened(tmp_path)
    assert probe.weight_bytes == stage.capacity.param_bytes
    assert sorted(blind.capabilities) == sorted(probe.capabilities) == sorted(stage.capacity.capabilities)
    assert set(probe.capabilities) == {"batch", "whole_texts", "scores" if scores else "hidden_states"}
    stage.close()
    stage.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_decoder": True}, "look back only"),
        ({"position_embedding_type": "relative_key"}, "positions are relative_key"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"n_embd": 32}, "remote code"),
        ({"architectures": ["BertForSequenceClassification"]}, "gives 2 numbers"),
        ({"architectures": ["BertForTokenClassification"]}, "another task head"),
        ({"model_type": "funnel"}, "encoders that run are albert, bert,"),
    ],
)
def test_what_does_not_run_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    make_encoder("bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    assert said in TorchFactory().supports(spec_of(tmp_path)).reason


def test_an_encoder_is_not_split(tmp_path: Path) -> None:
    make_encoder("bert", tmp_path)
    assert "runs on one stage" in TorchFactory().supports(spec_of(tmp_path, 1)).reason
    assert TorchFactory().supports(spec_of(tmp_path)).available


def test_padding_takes_a_fifth_at_most() -> None:
    lengths = np.array([3, 100, 79, 80, 81, 1, 3], np.int32)
    groups = list(similar_lengths(lengths))
    assert groups == [[1, 4, 3], [2], [0, 6], [5]]
    assert all(lengths[group].min() >= 0.8 * lengths[group].max() for group in groups)


def test_no_encoder_of_the_list_is_one_of_decoders() -> None:
    generating = {"architectures": ["BertLMHeadModel"], "model_type": "bert", "num_hidden_layers": 2}
    assert Capability.WHOLE_TEXTS in capabilities({**generating, "architectures": ["BertModel"]})
    assert Capability.WHOLE_TEXTS not in capabilities(generating)


def capabilities(config: dict[str, Any]) -> list[Capability]:
    from histrio_torch.traits import capabilities_of

    return capabilities_of(config)


@pytest.mark.parametrize("scores", [False, True])
def test_a_check_finds_a_missing_weight(tmp_path: Path, scores: bool) -> None:
    from safetensors.torch import load_file, save_file

    make_encoder("bert", tmp_path, scores=scores)
    factory, file = TorchFactory(), tmp_path / "model.safetensors"
    assert factory.probe().available
    assert factory.supports(spec_of(tmp_path)).available, "control"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    told = factory.supports(spec_of(tmp_path))
    assert told.reason.startswith(f"{file} lacks 1 weights of this stage, first {name}"), told
