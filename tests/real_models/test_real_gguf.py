# ruff: noqa: RUF001  (texts of all scripts)
"""Two real GGUF files say what their models' own repositories say, and what transformers reads in them.

python -m tests.real_models.build FOLDER
HISTRIO_REAL_MODELS=FOLDER pytest tests/real_models/test_real_gguf.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from histrio.config.gguf.dequantize import dequantize
from histrio.config.gguf.folder import CACHE_VARIABLE, folder_of_gguf
from histrio.config.gguf.header import map_file, read_gguf_header
from histrio_api.text.template import load_chat_template
from tests.real_models.build import SMOLLM2, SOURCES, Source, gguf_file

TEXTS = [
    *("", " ", "  ", "a", "\n\n", " \n \n", "\t\t", "Hello, world!  How are you?", "  leading", "trailing  "),
    *("def f(x):\n    return x**2 + 1\n\n\nclass A:\n\tpass", "I'm you're we've they'll IT'S", "café cafe\u0301 naïve"),
    *(
        "こんにちは世界。日本語",
        "你好，世界！",
        "안녕하세요 세계",
        "Привет, мир!",
        "مرحبا بالعالم",
        "हिन्दी में",
        "👋🏽 👨‍👩‍👧‍👦 🇩🇪",
    ),
    *("1 22 333 4444", "3.14159", "½ ² Ⅳ", "$100,000.00", '{"a": [1, null]}', "a" * 300, "ab " * 50, "\r\n\r\nwin\r\n"),
    *(
        "<|im_start|>user\nhi<|im_end|>\n",
        "<bos><start_of_turn>user\nhi<end_of_turn>\n",
        "\u00a0\u2003\u3000",
        "𝕳𝖊 ﬁ Å",
    ),
]
NUM_TEXTS = 300
DIFFERS = {"smollm2-135m": str.isnumeric, "gemma3-270m": "▁".__contains__}
"""Characters around which transformers' reading of GGUF is not the published tokenizer's: digits, which SmolLM2 takes
one by one, and ▁ where it is written in a text of Gemma."""

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def texts() -> list[str]:
    """Some by hand, and as many of their characters and pieces in any order."""
    choice = random.Random(1)
    characters = [each for text in TEXTS for each in text]
    made = list(TEXTS)
    while len(made) < NUM_TEXTS:
        pieces = choice.choices(TEXTS, k=3) if choice.random() < 0.5 else choice.choices(characters, k=40)
        made.append("".join(pieces))
    return made


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_the_configuration_is_the_published_one(source: Source, real_models: Path) -> None:
    made = json.loads((folder_of_gguf(gguf_file(real_models, source)) / "config.json").read_text())
    published = {key: value for key, value in source.config.items() if key != "torch_dtype"}
    implied = {"tie_word_embeddings": True, "rope_scaling": None}
    assert {key: made.get(key, implied.get(key)) for key in published} == published


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_ids_are_those_of_transformers_but_for_what_it_does_otherwise(source: Source, real_models: Path) -> None:
    from transformers import AutoTokenizer

    file = gguf_file(real_models, source)
    ours = Tokenizer.from_file(str(folder_of_gguf(file) / "tokenizer.json"))
    try:
        theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        pytest.skip(f"transformers cannot read GGUF here: {str(error).splitlines()[0]}")

    num_equal = 0
    for text in texts():
        found, judged = ours.encode(text).ids, theirs.encode(text)
        num_equal += found == judged
        assert found == judged or any(map(DIFFERS[source.name], text)), text
        assert ours.decode(found) == theirs.decode(found, skip_special_tokens=True)
    assert num_equal > NUM_TEXTS // 2


def test_prompts_are_those_of_transformers(real_models: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = folder_of_gguf(gguf_file(real_models, SMOLLM2))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "x"},
    ]
    judged = theirs.apply_chat_template(
        messages, chat_template=settings["chat_template"], tokenize=False, add_generation_prompt=True
    )
    template = load_chat_template(folder)
    assert template is not None
    assert template.render(messages) == judged
    assert judged.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_values_are_those_of_the_formats_own_package(source: Source, real_models: Path) -> None:
    quants = pytest.importorskip("gguf.quants", reason="the package gguf is not installed")
    constants = pytest.importorskip("gguf.constants")
    file = gguf_file(real_models, source)
    formats = set()
    with map_file(file) as data:
        for tensor in read_gguf_header(file).tensors:
            raw = np.frombuffer(data[tensor.offset : tensor.offset + min(tensor.num_bytes, 2**22 * 15)], np.uint8)
            raw = raw[: len(raw) // (tensor.num_bytes // tensor.shape[0]) * (tensor.num_bytes // tensor.shape[0])]
            judged = quants.dequantize(raw, constants.GGMLQuantizationType(tensor.block_type))
            assert np.array_equal(dequantize(raw, tensor.block_type), judged.reshape(-1)), tensor.name
            formats.add(tensor.block_type)
    assert len(formats) >= 3
