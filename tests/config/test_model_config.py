"""What the core reads of a model without transformers, on configurations as they are found in public models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histrio.config.model_config import ModelConfig, read_model_config
from histrio.errors import ModelError, UnsupportedModel

BASE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 6,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def read(
    folder: Path,
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
) -> ModelConfig:
    for name, content in (("config", config), ("generation_config", generation), ("tokenizer_config", tokenizer)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return read_model_config(folder)


def test_the_shape_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, BASE)
    assert (config.architecture, config.num_layers, config.vocab_size) == ("Qwen3ForCausalLM", 6, 1000)
    assert (config.max_positions, config.dtype, config.bos_id, config.eos_ids) == (4096, "bfloat16", 1, [2])
    assert config.default_sampling == {}


def test_a_nested_text_config_counts(tmp_path: Path) -> None:
    inner = {"num_hidden_layers": 26, "vocab_size": 7, "max_position_embeddings": 99, "dtype": "float16"}
    config = read(tmp_path, {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": inner})
    assert (config.num_layers, config.vocab_size, config.max_positions, config.dtype) == (26, 7, 99, "float16")


@pytest.mark.parametrize(
    ("names", "expected"), [({"n_layer": 3, "n_positions": 77}, (3, 77)), ({"num_layers": 4, "seq_length": 8}, (4, 8))]
)
def test_older_names_of_the_shape_are_known(tmp_path: Path, names: dict[str, int], expected: tuple[int, int]) -> None:
    config = read(tmp_path, {"architectures": ["X"], "vocab_size": 5, **names})
    assert (config.num_layers, config.max_positions) == expected


def test_end_ids_of_all_three_files_are_joined(tmp_path: Path) -> None:
    tokenizer = {"eos_token": "<|eot|>", "added_tokens_decoder": {"9": {"content": "<|eot|>"}}}
    config = read(tmp_path, BASE | {"eos_token_id": 2}, {"eos_token_id": [5, 2, 7]}, tokenizer)
    assert config.eos_ids == [2, 5, 7, 9]


def test_a_special_token_is_looked_up_in_the_tokenizer_file(tmp_path: Path) -> None:
    added = [{"id": 41, "content": "<s>", "special": True}, {"id": 42, "content": "</s>", "special": True}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"type": "BPE"}}))
    tokenizer = {"eos_token": {"content": "</s>"}, "bos_token": "<s>"}
    config = read(tmp_path, BASE | {"eos_token_id": None}, None, tokenizer)
    assert (config.bos_id, config.eos_ids) == (41, [42])


def test_a_tokenizer_without_bos_overrules_the_configuration(tmp_path: Path) -> None:
    assert read(tmp_path, BASE, None, {"bos_token": None}).bos_id is None
    assert read(tmp_path, BASE, None, {}).bos_id == 1


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "max_new_tokens": 5},
         {"temperature": 0.6, "top_k": 20, "top_p": 0.95}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"do_sample": False, "temperature": 0.7, "repetition_penalty": 1.1},
         {"temperature": 0, "repetition_penalty": 1.1}),
        ({"eos_token_id": 3}, {}),
        ({"temperature": None, "min_p": 0.1}, {"min_p": 0.1}),
    ],
)  # fmt: skip
def test_default_sampling_is_what_the_generation_config_sets(
    tmp_path: Path, generation: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert read(tmp_path, BASE, generation).default_sampling == expected


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}}, 16384),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 1024}}, 4096),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 32.0}}, 4096),
        ({"rope_scaling": None}, 4096),
    ],
)
def test_yarn_stretches_the_context_and_others_declare_it(tmp_path: Path, rope: dict[str, Any], expected: int) -> None:
    assert read(tmp_path, BASE | rope).max_positions == expected


def test_code_of_the_model_is_named_and_not_run(tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_x.XForCausalLM", "AutoTokenizer": ["tok_x.Slow", None]}
    assert read(tmp_path, BASE | {"auto_map": auto_map}).own_code == ["modeling_x.py", "tok_x.py"]


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("config.json", b"{", "config.json is not valid JSON"),
        ("config.json", b"\xff\xfe", "config.json is not a text in UTF-8"),
        ("config.json", b"[]", "config.json holds no JSON object"),
        ("generation_config.json", b"{'a'}", "generation_config.json is not valid JSON"),
        ("tokenizer_config.json", b"", "tokenizer_config.json is not valid JSON"),
        ("generation_config.json", b'{"temperature": "hot"}', "generation_config.json: temperature must be a number"),
        ("tokenizer.json", b"{]", "tokenizer.json is not a tokenizer file"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, fragment: str) -> None:
    read(tmp_path, BASE, None, {"eos_token": "<|e|>"})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=fragment):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"architectures": None}, "names no architecture"),
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"vocab_size": None}, "has no vocab_size"),
    ],
)
def test_what_is_no_text_model_is_refused(tmp_path: Path, change: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UnsupportedModel, match=fragment):
        read(tmp_path, BASE | change)


def test_a_nonsense_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="num_hidden_layers must be an integer from 1 to 2000"):
        read(tmp_path, BASE | {"num_hidden_layers": -1})


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        read_model_config(tmp_path)
