"""The name of a model's class says what can be asked of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histrio.config.model_config import read_model_config
from histrio.config.model_kind import TASKS, ModelKind, model_kind
from histrio.contracts.honours import require_task
from histrio.errors import RequestError

KINDS: tuple[ModelKind, ...] = ("generate", "embed", "score")


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("Qwen3ForCausalLM", "generate"),
        ("GPT2LMHeadModel", "generate"),
        ("ChatGLMModel", "generate"),
        ("LlavaForConditionalGeneration", "generate"),
        ("ToyLM", "generate"),
        ("BertModel", "embed"),
        ("BertForMaskedLM", "embed"),
        ("MPNetForMaskedLM", "embed"),
        ("ElectraForPreTraining", "embed"),
        ("XLMRobertaForSequenceClassification", "score"),
        ("Qwen3ForSequenceClassification", "score"),
    ],
)
def test_the_head_tells_the_kind(architecture: str, expected: str) -> None:
    assert model_kind(architecture) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", KINDS)
def test_what_a_kind_does_not_do_is_refused_with_what_it_does(kind: ModelKind, task: ModelKind) -> None:
    if task in TASKS[kind]:
        require_task(kind, task)
        return

    with pytest.raises(RequestError, match=r"this model (generates no|makes no|scores no).*; it ") as caught:
        require_task(kind, task)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "model", "unsupported_model")


@pytest.mark.parametrize(
    ("architecture", "files", "expected"),
    [
        ("BertModel", {}, 512),
        ("BertModel", {"tokenizer_config.json": {"model_max_length": 384}}, 384),
        ("BertModel", {"tokenizer_config.json": {"model_max_length": 10**30}}, 512),
        ("BertModel", {"sentence_bert_config.json": {"max_seq_length": 256}}, 256),
        ("BertModel", {"sentence_bert_config.json": {"max_seq_length": 1000}}, 512),
        ("BertModel", {"sentence_bert_config.json": {"max_seq_length": None}}, 512),
        ("BertForCausalLM", {"sentence_bert_config.json": {"max_seq_length": 256}}, 512),
    ],
)
def test_texts_are_as_long_as_sentence_transformers_takes_them(
    tmp_path: Path, architecture: str, files: dict[str, Any], expected: int
) -> None:
    config = {"architectures": [architecture], "num_hidden_layers": 2, "vocab_size": 9, "max_position_embeddings": 512}
    for name, content in {"config.json": config, **files}.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = read_model_config(tmp_path)
    assert (found.usual_positions, found.max_positions) == (expected, 512)


@pytest.mark.parametrize(
    ("model_type", "expected"), [("roberta", 512), ("xlm-roberta", 512), ("mpnet", 512), ("bert", 514)]
)
def test_positions_behind_the_padding_are_not_counted(tmp_path: Path, model_type: str, expected: int) -> None:
    config: dict[str, Any] = {
        "architectures": ["AModel"],
        "model_type": model_type,
        "num_hidden_layers": 2,
        "vocab_size": 9,
        "max_position_embeddings": 514,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_model_config(tmp_path).max_positions == expected
