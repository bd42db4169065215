"""Files of strangers: whatever stands in a model folder, it is read, or refused in one sentence that names the file."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histrio.config.model_config import ModelConfig, read_model_config
from histrio.config.weights import read_layer_bytes
from histrio.errors import ModelError
from histrio.testing.models import write_model

EXAMPLES = int(os.environ.get("HISTRIO_HOSTILE_EXAMPLES", "150"))
DEEP = "[" * 100_000
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model("llama", tmp_path_factory.mktemp("good") / "model")
    (folder / TOKENIZER).write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": None}))
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "model")


def read(folder: Path) -> ModelConfig:
    """What a plan reads."""
    config = read_model_config(folder)
    read_layer_bytes(folder, config.num_layers, config.vocab_size)
    return config


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


def complaint(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text.removeprefix(f"{folder}/")


def test_the_folder_that_is_spoilt_below_is_read(folder: Path) -> None:
    config = read(folder)
    assert (config.num_layers, config.vocab_size, config.eos_ids, config.bos_id) == (3, 258, [257], None)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("head_dim", 0, "must be an integer from 1"),
        ("num_attention_heads", 0, "must be an integer from 1"),
        ("num_attention_heads", True, "must be an integer from 1"),
        ("num_key_value_heads", 3, "must divide num_attention_heads, 4"),
        ("num_hidden_layers", 1_000_000_000, "must be an integer from 1 to 2000"),
        ("num_hidden_layers", 3.0, "must be an integer from 1 to 2000"),
        ("num_hidden_layers", "3", "must be an integer from 1 to 2000"),
        ("num_hidden_layers", -1, "must be an integer from 1 to 2000"),
        ("num_hidden_layers", 4, "is 4, but there are no weights of layer 3 in the folder"),
        ("hidden_size", 10**400, "must be an integer from 1"),
        ("vocab_size", 10, "is 10, but the embedding in the weights has 258 rows"),
        ("vocab_size", [258], "must be an integer from 1"),
        ("max_position_embeddings", 1e30, "must be an integer from 1"),
        ("layer_types", ["full_attention"], "has 1 entries for 3 layers (num_hidden_layers)"),
        ("layer_types", {"0": "full_attention"}, "must be a list of words"),
        ("rope_theta", 0, "must be a number above 0"),
        ("rope_theta", float("inf"), "must be a number above 0"),
        ("rms_norm_eps", float("nan"), "must be a number from 0 to 1"),
        ("rope_scaling", [4], "must be an object"),
        ("rope_scaling", {"rope_type": "spiral"}, "is no known kind of rotary positions"),
        ("rope_scaling", {"rope_type": ["linear"]}, "is no known kind of rotary positions"),
        ("rope_scaling", {"rope_type": "linear", "factor": float("inf")}, "factor must be a number above 0"),
        ("rope_scaling", {"rope_type": "yarn"}, "rope_scaling.factor is missing; rotary positions of the kind 'yarn'"),
        ("rope_scaling", {"type": "llama3", "factor": 8.0}, "rope_scaling.low_freq_factor is missing"),
        ("rope_parameters", {"full_attention": {"rope_theta": -1}}, ".full_attention.rope_theta must be a number"),
        ("rope_parameters", {"rope_type": "longrope", "long_factor": [float("nan")]}, ".long_factor must be finite"),
        ("torch_dtype", "banana", "must be a number format such as bfloat16"),
        ("tie_word_embeddings", "no", "must be true or false"),
        ("hidden_act", 5, "must be a word"),
        ("text_config", [], "must be an object"),
        ("text_config", {"num_attention_heads": 0}, "num_attention_heads must be an integer from 1"),
        ("quantization_config", "fp8", "must be an object"),
        ("eos_token_id", [[1]], "must be a token id, or a list of them"),
        ("eos_token_id", 10**30, "must be a token id, or a list of them"),
        ("eos_token_id", 1.5, "must be a token id, or a list of them"),
        ("bos_token_id", True, "must be a token id, or a list of them"),
    ],
)
def test_a_value_that_no_model_can_have_is_named_with_its_key(key: str, value: Any, words: str, folder: Path) -> None:
    edit(folder / "config.json", **{key: value})
    text = complaint(folder)
    assert text.startswith("config.json: ")
    assert key in text or key == "text_config"
    assert words in text


def test_linear_of_the_right_form_is_no_spiral(folder: Path) -> None:
    """A control of the table above: what it refuses is the form, not the key."""
    edit(folder / "config.json", rope_scaling={"rope_type": "linear", "factor": 2.0}, layer_types=None, head_dim=None)
    edit(folder / "config.json", quantization_config=None, text_config=None, time_step_limit=[0.0, float("inf")])
    edit(folder / "config.json", sliding_window=None, eos_token_id=[None, 257, 300, -1], x=float("nan"))
    config = read(folder)
    assert (config.max_positions, config.eos_ids, config.unknown_eos_ids) == (1024, [257], [300])


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", "hot"), ("top_k", 10**25), ("top_p", float("nan")), ("min_p", [1]), ("eos_token_id", {"a": 1})],
)
def test_a_default_that_is_no_number_is_named_with_its_key(key: str, value: Any, folder: Path) -> None:
    edit(folder / GENERATION, do_sample=True, **{key: value})
    assert complaint(folder).startswith(f"generation_config.json: {key} must be a ")


@pytest.mark.parametrize("name", ["config.json", GENERATION, TOKENIZER, "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "holds no JSON object"),
        (b"7", "holds no JSON object"),
        (b'{"a": 1', "is not valid JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number in it is too long"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark (BOM)"),
        ("{}".encode("utf-16"), "is not a text in UTF-8"),
        (DEEP.encode(), "is nested too deep"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "is nested too deep"),
    ],
    ids=["empty", "list", "number", "cut", "digits", "bom", "utf-16", "deep", "deepish"],
)
def test_a_text_that_is_no_json_object_is_named(name: str, content: bytes, words: str, folder: Path) -> None:
    if name.endswith("index.json"):
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / name).write_bytes(content)
    text = complaint(folder)
    assert text.startswith(name)
    assert words in text


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_not_waited_for(name: str, make: Callable[[Path], None], folder: Path) -> None:
    (folder / name).unlink()
    make(folder / name)
    assert "not a file, but a folder, a pipe or a device" in complaint(folder) or name == "tokenizer.json"


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ([], "must be an object"),
        ({"a": 1}, "must be an object"),
        ({}, "must be an object"),
        (None, "must be an object"),
        ({"a": "../model.safetensors"}, "no *.safetensors file of this folder"),
        ({"a": "/etc/passwd"}, "no *.safetensors file of this folder"),
        ({"a": "pytorch_model.bin"}, "no *.safetensors file of this folder"),
        ({"a": "gone.safetensors"}, f"lacks 1 of the 1 weight files that {INDEX} names, first gone.safetensors"),
    ],
)
def test_an_index_that_names_no_files_of_the_folder_is_refused(weight_map: Any, words: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    text = complaint(folder)
    assert INDEX in text
    assert words in text


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [10**30, 2]}, "broken safetensors header"),
        ({"shape": [-258, -64]}, "broken safetensors header"),
        ({"shape": [True, 64]}, "broken safetensors header"),
        ({"shape": [2**52] * 16}, "what cannot be"),
        ({"shape": [1] * 5000}, "what cannot be"),
        ({"data_offsets": [-8, 0]}, "broken safetensors header"),
        ({"data_offsets": [8, 0]}, "what cannot be"),
        ({"data_offsets": [0, 10**18]}, "broken safetensors header"),
        ({"data_offsets": [0]}, "broken safetensors header"),
        ({"dtype": "I16"}, "what cannot be"),
        ({"dtype": "F33"}, "number format that is not known"),
        ({"dtype": 7}, "broken safetensors header"),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_refused(change: dict[str, Any], words: str, folder: Path) -> None:
    file = folder / "model.safetensors"
    header, data = header_of(file.read_bytes())
    header["model.embed_tokens.weight"] |= change
    file.write_bytes(with_header(header, data))
    text = complaint(folder)
    assert text.startswith("model.safetensors")
    assert words in text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content[: len(content) // 2], "is cut short"),
        (lambda content: content[:500], "is cut short: it ends within its header"),
        (lambda content: content + b"more", "has 4 bytes more than its header describes"),
        (lambda content: b"", "it is empty"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64, "git lfs pull"),
        (lambda content: b"<!doctype html><html>Not found</html>", "a web page or a message"),
        (lambda content: struct.pack("<Q", 2**63) + content, "is not a safetensors file"),
        (lambda content: struct.pack("<Q", len(DEEP)) + DEEP.encode(), "broken safetensors header"),
        (lambda content: with_header([], b""), "broken safetensors header"),
    ],
)
def test_a_file_of_weights_that_is_not_whole_is_named(
    spoil: Callable[[bytes], bytes], words: str, folder: Path
) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    text = complaint(folder)
    assert text.startswith("model.safetensors")
    assert words in text


HOSTILE = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2, 1e9, 10**9, 10**30, -(10**30), 0.5, float("inf"), float("nan")]),
    st.sampled_from(["", "1", "x" * 1000, "\ud800", [], {}, [[]], [None], {"a": {}}, [1] * 100, {"rope_type": 5}]),
    st.integers(),
    st.floats(),
)


@given(data=st.data())
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
def test_whatever_replaces_a_value_it_is_read_or_named(data: st.DataObject, good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model", dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["config.json", GENERATION, TOKENIZER, "tokenizer.json", "model.safetensors"]))
    file = folder / name
    is_header = name == "model.safetensors"
    content, rest = header_of(file.read_bytes()) if is_header else (json.loads(file.read_text()), b"")
    for _ in range(data.draw(st.integers(1, 3))):
        content = replaced(content, data)
    file.write_bytes(with_header(content, rest) if is_header else json.dumps(content).encode())
    try:
        config = read(folder)
    except ModelError as error:
        assert str(folder) in str(error)  # noqa: PT017 - either outcome is right
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert 1 <= config.num_layers <= 3
        assert config.vocab_size == 258
        assert all(0 <= each < 258 for each in config.eos_ids)
        assert 1 <= config.max_positions < 2**31


def replaced(content: Any, data: st.DataObject) -> Any:
    """The content with one value somewhere in it made hostile."""
    if not content or not isinstance(content, dict | list) or data.draw(st.integers(0, 3)) == 0:
        return data.draw(HOSTILE)

    content = content.copy()
    key = data.draw(st.sampled_from(sorted(content)[:300] if isinstance(content, dict) else range(len(content))))
    content[key] = replaced(content[key], data)
    return content
