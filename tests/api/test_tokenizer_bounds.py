"""tokenizer.json comes from a stranger: what multiplies a text without end is refused when it is loaded."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from histrio.errors import ModelError
from histrio.testing.models import write_tokenizer
from histrio_api.text.tokenizer import Tokenizer


def replace(old: str, new: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def charsmap(*texts: str) -> str:
    return base64.b64encode((4).to_bytes(4, "little") + bytes(4) + "\0".join((*texts, "")).encode()).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path / "tokenizer.json"


@pytest.mark.parametrize(
    ("key", "part", "words"),
    [
        ("normalizer", sequence(*[replace("a", "aa")] * 30), "normalizer can make a text"),
        ("normalizer", sequence(*[sequence(replace("a", "aa"))] * 30), "normalizer can make a text"),
        ("normalizer", replace("a", "a" * 3000), "normalizer can make a text"),
        ("normalizer", sequence(*[replace("a?", "aa", "Regex")] * 20), "normalizer can make a text"),
        (
            "normalizer",
            sequence(*[{"type": "Precompiled", "precompiled_charsmap": charsmap("a" * 50)}] * 5),
            "can make",
        ),
        ("normalizer", sequence(*[{"type": "Lowercase"}] * 100), "normalizer has more than 64 steps"),
        ("decoder", {"type": "Sequence", "decoders": [replace("a", "aa")] * 30}, "decoder can make a text"),
        ("normalizer", {"type": "Nonsense"}, "not a tokenizer"),
        ("model", {"type": "BPE"}, "not a tokenizer"),
    ],
)
def test_steps_that_multiply_a_text_are_refused(key: str, part: dict[str, Any], words: str, file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: part}))
    with pytest.raises(ModelError, match=words) as caught:
        Tokenizer.load(file.parent)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"normalizer": '])
def test_what_is_no_tokenizer_is_named(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.load(file.parent)


@pytest.mark.parametrize(
    "normalizer",
    [
        sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        sequence(replace("``", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
        sequence({"type": "NFC"}, replace(r"\s+", " ", "Regex"), {"type": "Lowercase"}),
    ],
)
def test_normalizers_of_published_tokenizers_are_read(normalizer: dict[str, Any], file: Path) -> None:
    """A control: those of Llama 2, ALBERT and CLIP."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": normalizer}))
    assert Tokenizer.load(file.parent).encode("a b", add_special=False)
