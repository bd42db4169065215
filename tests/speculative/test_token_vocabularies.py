"""Two models can draft for each other if a token id means the same to both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histrio.errors import ModelError
from histrio_speculative.vocabulary import difference, read_vocabulary


def write(folder: Path, model: object) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": [{"id": 9}]}))
    return folder


def test_both_kinds_of_tokenizer_files_are_read(tmp_path: Path) -> None:
    bpe = write(tmp_path / "bpe", {"type": "BPE", "vocab": {"a": 0, "b": 1}})
    unigram = write(tmp_path / "unigram", {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.5]]})
    assert read_vocabulary(bpe) == read_vocabulary(unigram) == {0: "a", 1: "b"}


def test_a_draft_model_may_know_more_tokens_and_a_few_less() -> None:
    target = {number: str(number) for number in range(100)}
    assert difference(target, {**target, 100: "more"}) == ""
    assert difference(target, {number: str(number) for number in range(90)}) == ""
    assert difference(target, {number: str(number) for number in range(89)}) == "it knows 89 of 100 tokens"


def test_the_first_difference_is_named() -> None:
    assert difference({0: "a", 1: "b", 2: "c"}, {0: "a", 1: "x", 2: "y"}) == "token 1 is 'x' there and 'b' here"


@pytest.mark.parametrize("text", ["[]", "{", '{"model": {"vocab": 3}}'])
def test_another_file_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be compared"):
        read_vocabulary(tmp_path)
