"""Long texts: ids stay what they were, and what cannot fit is refused before it is encoded."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers

import histrio.demo
from histrio_api.testing import write_tokenizer
from histrio_api.text.tokenizer import Tokenizer, TooManyTokens

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

DEMO = Path(histrio.demo.__file__).parent / "target"
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "<|im_start|>user\nnaïve 日本語 🙂<|im_end|>",
    "a" * 5000,
    "e\u0301\ud55c\uae00 \x00\n\n  x",
]


@pytest.fixture(params=["demo", "test"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "demo":
        return DEMO
    write_tokenizer(tmp_path)
    return tmp_path


@pytest.mark.parametrize("add_special", [True, False])
def test_batches_of_one_have_the_ids_and_texts_of_single_calls(folder: Path, add_special: bool) -> None:
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = Tokenizer.load(folder)
    for text in TEXTS:
        single = plain.encode(text, add_special_tokens=add_special)
        assert ours.encode(text, add_special=add_special) == single.ids
        assert ours.encode_placed(text, add_special=add_special)[0] == single.ids
        for skip_special in (True, False):
            expected = plain.decode(single.ids, skip_special_tokens=skip_special)
            assert ours.decode(single.ids, skip_special=skip_special) == expected
    assert ours.encode("a", add_special=False) != ours.encode("b", add_special=False)


class Counting:
    """A tokenizer of the library that counts the characters it is given."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self.num_chars = 0

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.num_chars += sum(map(len, texts))
        return self._inner.encode_batch_fast(texts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_hopeless_text_is_encoded_no_further_than_it_takes_to_know() -> None:
    counting = Counting(tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json")))
    tokenizer = Tokenizer(counting)  # type: ignore[arg-type]
    text = "some words of a text, " * 500_000
    with pytest.raises(TooManyTokens, match="more than 4096 tokens") as caught:
        tokenizer.encode(text, add_special=True, max_tokens=4096)
    assert not caught.value.is_exact
    assert counting.num_chars <= 2 * 2**16 < len(text)
    with pytest.raises(TooManyTokens):
        tokenizer.encode_placed(text, add_special=True, max_tokens=4096)


def test_a_text_that_is_little_too_long_is_counted_exactly() -> None:
    tokenizer = Tokenizer.load(DEMO)
    num_tokens = len(tokenizer.encode("some words " * 100, add_special=False))
    assert tokenizer.encode("some words " * 100, add_special=False, max_tokens=num_tokens)
    with pytest.raises(TooManyTokens) as caught:
        tokenizer.encode("some words " * 100, add_special=False, max_tokens=num_tokens - 1)
    assert (caught.value.num_tokens, caught.value.is_exact) == (num_tokens, True)


def test_what_fits_is_never_refused_by_its_length() -> None:
    """Tokens of 200 characters: a text far above the usual length of tokens, and within the limit."""
    model = tokenizers.models.WordLevel({"a" * 200: 0, "[UNK]": 1}, unk_token="[UNK]")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(inner)
    text = ("a" * 200 + " ") * 4000
    assert tokenizer.encode(text, add_special=False, max_tokens=4000) == [0] * 4000
    assert tokenizer.encode(" " * 1_000_000 + "a" * 200, add_special=False, max_tokens=8) == [0]
    with pytest.raises(TooManyTokens):
        tokenizer.encode(text * 4, add_special=False, max_tokens=4000)


def test_random_texts_within_the_limit_are_never_refused() -> None:
    tokenizer = Tokenizer.load(DEMO)
    rng = random.Random(1)
    for alphabet in ("ab ", "\n\t ", "日本語", "!?=-"):
        text = "".join(rng.choices(alphabet, k=70_000))
        ids = tokenizer.encode(text, add_special=False)
        assert tokenizer.encode(text, add_special=False, max_tokens=len(ids)) == ids


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    """Counted, not timed: the plain call, the control, lets another thread take hardly a step."""
    plain = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    text = "a b " * 50_000

    def num_steps_beside(work: Any) -> int:
        steps, is_over, began = 0, False, threading.Event()

        def step() -> None:
            nonlocal steps
            began.set()
            while not is_over:
                steps += 1
                threading.Event().wait(0.0005)

        other = threading.Thread(target=step)
        other.start()
        began.wait()
        before = steps
        work()
        found = steps - before
        is_over = True
        other.join()
        return found

    tokenizer = Tokenizer.load(DEMO)
    ours = num_steps_beside(lambda: tokenizer.encode(text, add_special=False))
    assert ours > 5
    assert ours > 3 * num_steps_beside(lambda: plain.encode(text))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_hopeless_prompt_gets_the_limits_error(endpoint: Endpoint, path: str) -> None:
    text = "words " * 30_000
    content: Any = {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    response = endpoint.http.post(path, json={"model": "test/scripted"} | content)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 512 tokens, but the prompt has more than 512 tokens" in error["message"]


MESSAGE = {"role": "user", "content": "a"}
CALL = {"function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("/v1/chat/completions", {"messages": [MESSAGE] * 4097}, "messages: at most 4096 messages"),
        (
            "/v1/chat/completions",
            {"messages": [MESSAGE | {"content": [{"type": "text", "text": "a"}] * 1100}] * 15},
            "messages: at most 16384 parts",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "assistant", "tool_calls": [CALL] * 820}] * 5},
            "messages: at most 4096 tool calls",
        ),
        (
            "/v1/chat/completions",
            {"messages": [MESSAGE], "tools": [{"function": {"name": "f"}}] * 1025},
            "tools: at most 1024 tools",
        ),
        ("/tokenize", {"messages": [MESSAGE] * 4097}, "messages: at most 4096 messages"),
        ("/v1/completions", {"prompt": ["a"] * 65}, "prompt: at most 64 prompts"),
        ("/detokenize", {"tokens": [1] * 262_145}, "tokens: at most 262144 ids"),
        ("/tokenize", {"prompt": "a" * 1_048_577}, "prompt: at most 1048576 characters"),
    ],
)
def test_counts_have_limits_that_are_named(roomy: Endpoint, path: str, fields: dict[str, Any], text: str) -> None:
    given = fields if path.endswith("tokenize") else {"model": "test/scripted"} | fields
    response = roomy.http.post(path, json=given)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["message"].startswith(text)
    assert error["param"] == text.partition(":")[0]
