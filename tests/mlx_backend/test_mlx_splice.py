"""A spliced stage computes its own layers inside the model's own code, and holds nothing of other stages."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.quantized import QuantizedEmbedding, quantize
from mlx.utils import tree_flatten

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel
from histrio_mlx.compat import make_prompt_cache, model_classes
from histrio_mlx.parts import Parts, flatten, rebuild
from histrio_mlx.splice import Relay, splice
from histrio_mlx.structure import find_structure
from histrio_mlx.survey.tiny import configs

IDS = mx.array([[5, 9, 3, 77, 41]])
ALL = mx.arange(5)


def build(family: str, **changes: Any) -> Any:
    """A tiny random model, the same for the same arguments."""
    config = {**configs()[family], **changes}
    model_class, arguments = model_classes(config)
    mx.random.seed(7)
    return model_class(arguments.from_dict(config))


def stage(model: Any, first: int, last: int) -> Relay:
    """The layers `first:last` of the model."""
    return splice(model, StageSpec("", first, last, len(model.layers)))


def run_split(family: str, cut: int, change: Any = None, **changes: Any) -> mx.array:
    """Logits of all of `IDS` through two stages; `change` alters what goes from one to the other."""
    whole = build(family, **changes)
    front, back = stage(build(family, **changes), 0, cut), stage(build(family, **changes), cut, len(whole.layers))
    parts = front.run_layers(IDS, make_prompt_cache(front.model))
    return back.run_model(parts if change is None else change(parts), make_prompt_cache(back.model), ALL)


def plain(family: str, **changes: Any) -> mx.array:
    """Logits of all of `IDS` by mlx-lm's model alone."""
    model = build(family, **changes)
    logits: mx.array = model(IDS, cache=make_prompt_cache(model))[0]
    return logits


def parameter_names(model: Any) -> set[str]:
    parameters: Any = tree_flatten(model.parameters())
    return {name for name, _ in parameters}


def error(found: mx.array, expected: mx.array) -> float:
    """Largest difference, relative to the largest expected value."""
    return float(mx.abs(found - expected).max() / mx.abs(expected).max())


def tilt(parts: Parts) -> Parts:
    """Another residual stream, in a way that no normalisation takes back."""
    return {**parts, "": parts[""] * mx.linspace(0.5, 1.5, parts[""].shape[-1])}


# gpt2 adds positions in place, gpt_neox has its head inside, plamo its layers in a module of their own, phixtral needs
# a mask, minimax takes one, qwen3_vl wraps a text model
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "plamo", "phixtral", "minimax", "qwen3_vl", "rwkv7"])
def test_two_stages_compute_what_the_model_does(family: str) -> None:
    expected = plain(family)

    assert error(run_split(family, 2), expected) < 1e-5
    assert error(run_split(family, 2, tilt), expected) > 1e-2


def test_stages_hold_every_parameter_once() -> None:
    names = parameter_names(build("qwen3"))
    front, middle, back = (stage(build("qwen3"), *layers).model for layers in ((0, 1), (1, 3), (3, 4)))
    held = [parameter_names(model) for model in (front, middle, back)]

    assert set.union(*held) == names
    assert sum(map(len, held)) == len(names)
    assert {name.split(".")[2] for name in held[1]} == {"1", "2"}
    assert "model.embed_tokens.weight" in held[0]
    assert {"model.norm.weight", "lm_head.weight"} <= held[2]


# helium has a head of its own even where its settings tie it
@pytest.mark.parametrize("family", ["qwen3", "helium"])
def test_a_tied_head_keeps_the_embeddings_weight(family: str) -> None:
    expected = plain(family, tie_word_embeddings=True)
    tied = stage(build(family, tie_word_embeddings=True), 2, 4).model

    assert "model.embed_tokens.weight" in parameter_names(tied)
    assert "model.embed_tokens.weight" not in parameter_names(stage(build(family), 2, 4).model)
    assert error(run_split(family, 2, tie_word_embeddings=True), expected) < 1e-5
    assert error(run_split(family, 2, tilt, tie_word_embeddings=True), expected) > 1e-2


def test_a_tied_head_can_be_quantized() -> None:
    model = build("qwen3", tie_word_embeddings=True)
    back = stage(model, 2, 4)
    quantize(model, group_size=32, bits=8)
    received = {"": mx.random.normal((1, 5, 64))}

    logits = back.run_model(received, make_prompt_cache(model), ALL)

    assert isinstance(model.model.embed_tokens, QuantizedEmbedding)
    assert bool(mx.isfinite(logits).all().item())


def test_what_was_received_survives_models_that_add_to_it_in_place() -> None:
    back = stage(build("gpt2"), 2, 4)
    received = mx.random.normal((1, 5, 64))
    before = received + 0

    back.begin({"": received})
    first, second = back.hand_on(), back.hand_on()
    first += 1

    assert error(received, before) == 0
    assert error(second, before) == 0
    assert error(first, before) > 0.1


def test_stand_ins_answer_as_the_layer_they_stand_for() -> None:
    model = build("exaone4")
    kinds = [layer.self_attn.is_local for layer in model.layers]
    layers = stage(model, 1, 2).structure.layers  # type: ignore[union-attr]

    assert [layer.self_attn.is_local for layer in layers] == kinds
    assert len(set(kinds)) == 2
    with pytest.raises(AttributeError):
        _ = layers[0].self_attn.q_proj.weight


def test_only_sampled_tokens_reach_the_head() -> None:
    relay = stage(build("llama"), 0, 4)
    expected = plain("llama")
    logits = relay.run_model(IDS, make_prompt_cache(relay.model), mx.array([1, 4]))

    assert logits.shape == (2, 256)
    assert error(logits, expected[mx.array([1, 4])]) < 1e-5
    assert error(logits, expected[mx.array([0, 4])]) > 1e-2


def test_embeddings_read_on_a_later_stage_are_nan() -> None:
    clean, leaky = run_split("llama", 2), run_split("talkie", 2)

    assert bool(mx.isfinite(clean).all().item())
    assert not bool(mx.isfinite(leaky).any().item())


def test_parts_beside_the_residual_stream_cross_only_if_a_layer_reads_them() -> None:
    families = {"rwkv7": {"1"}, "hunyuan": {"1.0", "1.1"}, "gemma4_text/plain": set()}
    for family, names in families.items():
        front = stage(build(family), 0, 1)
        parts = front.run_layers(IDS, make_prompt_cache(front.model))
        assert {name for name, part in parts.items() if name and part.size} == names
        assert all(part.shape[:2] == (1, 5) for part in parts.values() if part.size)


def test_a_tuple_survives_the_way() -> None:
    keys, values = mx.random.normal((1, 2, 5, 8)), mx.random.normal((1, 2, 5, 8))
    output = (mx.ones((1, 5, 4)), (keys, values), None, mx.zeros((1, 5)))
    parts = dict(flatten(output))
    again = rebuild(parts)

    assert list(parts) == ["", "1.0", "1.1", "2", "3"]
    assert parts["1.0"].shape == (1, 5, 2, 8)
    assert again[2] is None
    assert error(again[1][0], keys) == error(again[1][1], values) == 0
    assert error(again[1][1], keys) > 0


def test_a_model_that_runs_its_layers_twice_is_refused() -> None:
    front = stage(build("nanbeige"), 0, 1)

    with pytest.raises(UnsupportedModel, match="nanbeige runs its layers more than once"):
        front.run_layers(IDS, make_prompt_cache(front.model))


def test_a_model_without_one_list_of_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="afm7 has 0 lists of all its layers"):
        find_structure(build("afm7"))


def test_a_plan_for_another_number_of_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="llama has 4 layers, but was planned with 5"):
        splice(build("llama"), StageSpec("", 0, 2, 5))
