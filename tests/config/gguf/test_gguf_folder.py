"""The model folder of a GGUF file: made once for each state of the file, linked to it, and read as any other folder."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from histrio.config.gguf import folder as gguf_folder
from histrio.config.gguf.dequantize import dequantize
from histrio.config.gguf.folder import CACHE_VARIABLE, cache_folder, folder_of_gguf
from histrio.config.gguf.header import read_gguf_header
from histrio.config.gguf.model import first_files
from histrio.config.gguf.pointer import POINTER, GgufWeights, is_gguf_folder, read_pointer
from histrio.config.model_config import read_model_config
from histrio.errors import ModelError, ModelUnavailable, UnsupportedModel
from histrio.testing.gguf import F32, Q4_0, Q8_0, gguf_bytes
from histrio.testing.gguf_models import gguf_metadata, gguf_tensors, write_gguf_model
from histrio.testing.models import MODELS, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def tensors_of(folder: Path) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    """Name and values as transformers has them."""
    with GgufWeights(folder) as weights:
        for name, tensor in weights.tensors.items():
            values = dequantize(weights.data(name), tensor.block_type).reshape(tensor.shape)
            if tensor.rotary_pairs_adjacent:
                heads = MODELS["llama"]["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
                values = values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
            yield name, values.copy()


@pytest.mark.parametrize(("block_type", "step"), [(F32, 0.0), (Q8_0, 0.03), (Q4_0, 0.6)])
def test_a_folder_has_the_models_configuration_tokenizer_and_weights(
    model: Path, tmp_path: Path, block_type: int, step: float
) -> None:
    folder = folder_of_gguf(write_gguf_model(model, tmp_path / "tiny.gguf", block_type))
    ours, theirs = read_model_config(folder), read_model_config(model)
    plain: dict[str, Any] = {"dtype": None, "default_sampling": {}, "eos_ids": []}
    assert msgspec.structs.replace(ours, **plain) == msgspec.structs.replace(theirs, **plain)
    assert ours.eos_ids == [257]
    assert ours.dtype == ("float32" if block_type == F32 else None)
    text = "Hällo <|im_start|>x"
    assert (
        Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
        == Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    )
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"].startswith("{% for message")
    stored = dict(_safetensors(model / "model.safetensors"))
    found = dict(tensors_of(folder))
    assert found.keys() == stored.keys()
    for name, values in stored.items():
        assert float(np.abs(found[name] - values).max()) <= (step if values.ndim > 1 else 0), name


def _safetensors(file: Path) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    from safetensors.numpy import load_file

    yield from load_file(file).items()


def test_rows_that_stand_in_pairs_are_not_those_of_transformers(model: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    folder = folder_of_gguf(write_gguf_model(model, tmp_path / "tiny.gguf"))
    with GgufWeights(folder) as weights:
        assert weights.tensors[name].rotary_pairs_adjacent
        assert not weights.tensors[name.replace("q_proj", "v_proj")].rotary_pairs_adjacent
        raw = weights.data(name).view(np.float32).copy()
    values = dict(_safetensors(model / "model.safetensors"))[name]
    head = MODELS["llama"]["head_dim"]
    assert np.array_equal(raw.reshape(values.shape)[1], values[head // 2])
    assert not np.array_equal(raw.reshape(values.shape)[1], values[1])


def test_bytes_of_weights_are_mapped_and_not_to_be_written(model: Path, tmp_path: Path) -> None:
    with GgufWeights(folder_of_gguf(write_gguf_model(model, tmp_path / "tiny.gguf"))) as weights:
        data = weights.data("model.norm.weight")
        assert not data.flags.owndata
        assert not data.flags.writeable


def test_a_file_makes_one_folder_until_it_changes(model: Path, tmp_path: Path) -> None:
    file = write_gguf_model(model, tmp_path / "tiny.gguf")
    folder = folder_of_gguf(file)
    (folder / "mark").touch()
    assert folder_of_gguf(file) == folder
    assert (folder / "mark").exists(), "it was not made anew"

    os.utime(file, ns=(1, 1))
    other = folder_of_gguf(file)
    assert other != folder
    with pytest.raises(ModelError, match=r"tiny\.gguf was changed since .* start again from the file"):
        read_pointer(folder)
    assert read_pointer(other).paths == [file]
    file.unlink()
    with pytest.raises(ModelUnavailable, match=r"tiny\.gguf cannot be read: No such file"):
        read_pointer(other)


def test_what_lies_beside_the_file_wins(model: Path, tmp_path: Path) -> None:
    file = write_gguf_model(model, tmp_path / "tiny.gguf")
    alone = folder_of_gguf(file)
    content = (model / "tokenizer.json").read_text().replace("<|im_end|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(content)
    beside = folder_of_gguf(file)
    assert beside != alone
    assert (beside / "tokenizer.json").read_text() == content
    assert "<|other|>" not in (alone / "tokenizer.json").read_text()
    assert (beside / "tokenizer_config.json").exists()


def test_an_unknown_vocabulary_is_no_matter_where_the_tokenizer_lies_beside_the_file(
    model: Path, tmp_path: Path
) -> None:
    file = write_gguf_model(model, tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes().replace(b"gpt-2", b"newer"))
    with pytest.raises(UnsupportedModel, match=r"put the original tokenizer\.json"):
        folder_of_gguf(file)
    assert list(cache_folder().iterdir()) == [], "nothing is left of the attempt"
    (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    assert is_gguf_folder(folder_of_gguf(file))


def test_the_oldest_folders_are_removed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_folder, "MOST_FOLDERS", 2)
    file = write_gguf_model(model, tmp_path / "tiny.gguf")
    folders = []
    for age in (3, 2, 1):
        os.utime(file, ns=(age, age))
        folders.append(folder_of_gguf(file))
        os.utime(folders[-1], ns=(10**9 * age, 10**9 * (10 - age)))
    other = cache_folder() / "not ours"
    other.mkdir()
    os.utime(file, ns=(9, 9))
    newest = folder_of_gguf(file)
    assert newest.exists()
    assert not folders[0].exists()
    assert other.exists(), "what has no link in it was not made here"


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=rf"cache cannot be written .* set {CACHE_VARIABLE} to another folder"):
        folder_of_gguf(write_gguf_model(model, tmp_path / "tiny.gguf"))


def test_the_cache_is_the_users_unless_another_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "histrio" / "gguf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "histrio" / "gguf"


def test_folders_are_for_all_users_to_read(model: Path, tmp_path: Path) -> None:
    folder = folder_of_gguf(write_gguf_model(model, tmp_path / "tiny.gguf"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def split(model: Path, folder: Path, **changes: int) -> list[Path]:
    """The model in two files."""
    file = write_gguf_model(model, folder / "whole.gguf")
    metadata = dict(read_gguf_header(file).metadata)
    config = json.loads((model / "config.json").read_text())
    tensors = list(gguf_tensors(dict(_safetensors(model / "model.safetensors")), config).items())
    said = {"split.count": 2} | changes
    parts = [
        (metadata | {"split.no": 0} | said, dict(tensors[:10])),
        ({"general.architecture": "llama", "split.no": 1} | said, dict(tensors[10:])),
    ]
    files = [folder / f"tiny-{index + 1:05d}-of-00002.gguf" for index in range(2)]
    for path, (values, some) in zip(files, parts, strict=True):
        path.write_bytes(gguf_bytes(values, some))
    return files


def test_a_model_in_several_files_is_one_model_whichever_part_is_named(model: Path, tmp_path: Path) -> None:
    whole = dict(tensors_of(folder_of_gguf(write_gguf_model(model, tmp_path / "x.gguf"))))
    files = split(model, tmp_path)
    folder = folder_of_gguf(files[1])
    assert folder == folder_of_gguf(files[0])
    assert {tensor.file_index for tensor in read_pointer(folder).tensors} == {0, 1}
    found = dict(tensors_of(folder))
    assert found.keys() == whole.keys()
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_missing_and_foreign_parts_are_named(model: Path, tmp_path: Path) -> None:
    files = split(model, tmp_path)
    content = files[1].read_bytes()
    files[1].unlink()
    with pytest.raises(ModelUnavailable, match=r"lacks 1 of the 2 parts of the model: tiny-00002-of-00002\.gguf"):
        folder_of_gguf(files[0])
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(ModelError, match=r"tiny-00002-of-00002\.gguf does not say that it is part 2 of 2"):
        folder_of_gguf(files[0])
    files[1].write_bytes(content)
    assert is_gguf_folder(folder_of_gguf(files[0]))


def test_of_several_names_those_that_stand_for_models_are_found() -> None:
    names = ["b-Q4_0.gguf", "mmproj-f16.gguf", "a-00002-of-00002.gguf", "d/a-00001-of-00002.gguf", "x.txt", "c.GGUF"]
    assert first_files(names) == ["b-Q4_0.gguf", "c.GGUF", "d/a-00001-of-00002.gguf"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"offset": 2**50}, "what cannot be"),
        ({"num_bytes": 8}, "what cannot be"),
        ({"file_index": 5}, "what cannot be"),
        ({"block_type": 77}, "what cannot be"),
        ({"offset": "x"}, "is not a link to GGUF files"),
    ],
)
def test_a_link_that_was_made_up_is_refused(model: Path, tmp_path: Path, change: dict[str, int], fault: str) -> None:
    folder = folder_of_gguf(write_gguf_model(model, tmp_path / "tiny.gguf"))
    content = json.loads((folder / POINTER).read_text())
    content["tensors"][3] |= change
    (folder / POINTER).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=fault):
        read_pointer(folder)


def test_no_mutated_file_makes_a_folder_fail_otherwise_than_by_name(model: Path, tmp_path: Path) -> None:
    file = write_gguf_model(model, tmp_path / "tiny.gguf")
    whole = file.read_bytes()
    keys = [key.encode() for key in gguf_metadata(MODELS["llama"])]
    num_refused = 0
    for key in keys:
        at = whole.index(key) + len(key) + 4
        for value in (0, 2**31, 2**32 - 1):
            file.write_bytes(whole[:at] + struct.pack("<I", value) + whole[at + 4 :])
            try:
                read_model_config(folder_of_gguf(file))
            except ModelError:
                num_refused += 1
    assert num_refused > len(keys), "most of them are nothing that a model can have"
