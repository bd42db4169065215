"""How vectors are made, from files as sentence-transformers writes them, and from hostile ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histrio.config.vector_habits import VectorHabits, read_vector_habits
from histrio.errors import ModelError, ModelUnavailable

ST = "sentence_transformers.models."


def write(folder: Path, modules: Any, pooling: dict[str, Any] | None = None) -> None:
    (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def steps(*kinds: str) -> list[dict[str, Any]]:
    return [
        {"idx": at, "name": str(at), "path": f"{at}_{kind}" if at else "", "type": ST + kind}
        for at, kind in enumerate(kinds)
    ]


def test_without_files_it_is_the_last_token_scaled(tmp_path: Path) -> None:
    assert read_vector_habits(tmp_path, {}) == VectorHabits(pooling="last", normalizes=True, widths=[])


def test_a_model_that_makes_vectors_only_takes_the_mean(tmp_path: Path) -> None:
    assert read_vector_habits(tmp_path, {}, "embed") == VectorHabits(pooling="mean", normalizes=True, widths=[])


@pytest.mark.parametrize(
    ("config", "squeezes", "refusal"),
    [
        ({"num_labels": 1}, True, ""),
        ({"id2label": {"0": "LABEL_0"}, "num_labels": 3}, True, ""),
        ({"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, False, ""),
        ({"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.Identity"}}, False, ""),
        ({"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, True, ""),
        ({"num_labels": 1, "sentence_transformers": {"version": "5"}}, True, ""),
        ({"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, True, "a function of scores"),
        ({"num_labels": 1, "sbert_ce_default_activation_function": 3}, True, "a function of scores"),
        ({}, True, "2 numbers"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, True, "3 numbers"),
        ({"num_labels": "1"}, True, "2 numbers"),
    ],
)
def test_what_becomes_of_scores_is_read(tmp_path: Path, config: dict[str, Any], squeezes: bool, refusal: str) -> None:
    habits = read_vector_habits(tmp_path, config, "score")
    assert habits.squeezes == squeezes
    assert bool(habits.refusal) == bool(refusal)
    assert refusal in habits.refusal


@pytest.mark.parametrize(("named", "squeezes"), [("torch.nn.modules.linear.Identity", False), (None, True)])
def test_the_newest_file_says_first_what_becomes_of_scores(tmp_path: Path, named: str | None, squeezes: bool) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"activation_fn": named}))
    config = {"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}
    assert read_vector_habits(tmp_path, config, "score").squeezes == squeezes


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "include_prompt": True}, "mean"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ],
)
@pytest.mark.parametrize("normalizes", [True, False])
def test_the_steps_are_read(tmp_path: Path, pooling: dict[str, Any], expected: str, normalizes: bool) -> None:
    write(tmp_path, steps("Transformer", "Pooling", *(["Normalize"] if normalizes else [])), pooling)
    habits = read_vector_habits(tmp_path, {})
    assert (habits.pooling, habits.normalizes, habits.refusal) == (expected, normalizes, "")


@pytest.mark.parametrize(
    ("kinds", "pooling"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}),
        (("Transformer", "Pooling"), {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}),
        (("Transformer", "Pooling"), {"pooling_mode_mean_sqrt_len_tokens": True}),
        (("Transformer", "Pooling"), {}),
        (("Transformer", "Pooling", "Dense"), {"pooling_mode": "mean"}),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, kinds: tuple[str, ...], pooling: dict[str, Any]) -> None:
    write(tmp_path, steps(*kinds), pooling)
    assert read_vector_habits(tmp_path, {}).refusal


@pytest.mark.parametrize(
    ("config", "widths"),
    [({"is_matryoshka": True}, None), ({"matryoshka_dimensions": [64, 8]}, [8, 64]), ({"is_matryoshka": False}, [])],
)
def test_shorter_vectors_are_those_that_config_json_names(
    tmp_path: Path, config: dict[str, Any], widths: list[int] | None
) -> None:
    assert read_vector_habits(tmp_path, config).widths == widths


@pytest.mark.parametrize(
    "modules",
    [
        {"type": "Pooling"},
        [3],
        [{"type": 3}],
        [*steps("Transformer"), {"type": "Pooling"}],
        [*steps("Transformer"), {"type": "Pooling", "path": "/etc"}],
        [*steps("Transformer"), {"type": "Pooling", "path": "../other"}],
        [*steps("Transformer"), {"type": "Pooling", "path": "a\0b"}],
    ],
)
def test_malformed_files_are_named(tmp_path: Path, modules: Any) -> None:
    write(tmp_path, modules)
    with pytest.raises(ModelError, match=r"modules\.json"):
        read_vector_habits(tmp_path, {})


def test_a_missing_pooling_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, steps("Transformer", "Pooling"))
    with pytest.raises(ModelUnavailable, match="1_Pooling"):
        read_vector_habits(tmp_path, {})


@pytest.mark.parametrize("widths", [3, ["8"], [0], [True]])
def test_malformed_widths_are_named(tmp_path: Path, widths: Any) -> None:
    with pytest.raises(ModelError, match="matryoshka_dimensions"):
        read_vector_habits(tmp_path, {"matryoshka_dimensions": widths})
