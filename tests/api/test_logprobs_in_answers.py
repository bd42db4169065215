"""Log probabilities in answers, judged by the official client: which tokens have them, and when they go out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState, TokenLogprobs
from histrio_api.answer.logprobs import completion_logprobs
from histrio_api.schemas.logprobs import TokenLogprob, TopLogprob
from histrio_api.testing import Script, ScriptedGateway, running_endpoint, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

MODEL = "test/scripted"
HELLO: Any = [{"role": "user", "content": "Hello"}]
EOS = 2
DECODING = RequestState.DECODING


def logprob_of(token_id: int) -> float:
    return -token_id / 64


def top_of(token_id: int, num_top: int) -> list[tuple[int, float]]:
    return [(token_id + at, logprob_of(token_id) - at) for at in range(num_top)]


def delta_of(ids: Sequence[int], state: RequestState = DECODING, num_top: int = 2) -> Delta:
    found = [TokenLogprobs(logprob_of(token_id), top_of(token_id, num_top)) for token_id in ids]
    return Delta(list(ids), state, Extras(logprobs=found))


def script_of(ids: Sequence[int], group: int = 1, num_top: int = 2) -> Script:
    """Deltas of `group` ids each; the id that ends the text comes with the last of them."""
    ids = [*ids, EOS]
    groups = [ids[at : at + group] for at in range(0, len(ids), group)]
    return [delta_of(each, RequestState.FINISHED_EOS if each is groups[-1] else DECODING, num_top) for each in groups]


def chat_entries(endpoint: Endpoint, stream: bool, **fields: Any) -> tuple[str, list[Any], Any]:
    """Text, entries and usage of the first choice of a chat."""
    fields = {"model": MODEL, "messages": HELLO, "logprobs": True} | fields
    if not stream:
        answer = endpoint.client.chat.completions.create(**fields)
        (choice,) = answer.choices
        return choice.message.content or "", choice.logprobs.content or [], answer.usage
    text, usage = "", None
    entries: list[Any] = []
    for chunk in endpoint.client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **fields):
        usage = chunk.usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            entries += (choice.logprobs and choice.logprobs.content) or []
    return text, entries, usage


def texts_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.spell(token_id)[0] for token_id in ids]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", [1, 3, 100])
def test_every_token_of_a_chat_has_its_entry(endpoint: Endpoint, stream: bool, group: int) -> None:
    ids = endpoint.ids("naïve café – 🙂")
    endpoint.plays(script_of(ids, group))
    text, entries, usage = chat_entries(endpoint, stream, top_logprobs=2)
    assert text == "naïve café – 🙂"
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == text
    assert [entry.token for entry in entries] == texts_of(endpoint.tokenizer, ids)
    assert [entry.logprob for entry in entries] == [logprob_of(token_id) for token_id in ids]
    for entry, token_id in zip(entries, ids, strict=True):
        tops = [(each.token, each.logprob, bytes(each.bytes)) for each in entry.top_logprobs]
        spelled = [(endpoint.tokenizer.spell(top), logprob) for top, logprob in top_of(token_id, 2)]
        assert tops == [(shown, logprob, bytes(values)) for (shown, values), logprob in spelled]
    assert usage.completion_tokens == len(ids) + 1, "the id that ends the text counts, but has no entry"
    assert endpoint.gateway.submissions[-1].ask.num_logprobs == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", [1, 3, 100])
def test_every_token_of_a_completion_has_its_columns(endpoint: Endpoint, stream: bool, group: int) -> None:
    ids = endpoint.ids(" wörld 🙂 ok")
    endpoint.plays(script_of(ids, group, num_top=1))
    answer: Any = endpoint.client.completions.create(model=MODEL, prompt="a", logprobs=1, stream=stream)
    choices = [chunk.choices[0] for chunk in (answer if stream else [answer])]
    text = "".join(choice.text for choice in choices)
    columns: dict[str, list[Any]] = {}
    for choice in choices:
        for name, column in choice.logprobs.model_dump().items() if choice.logprobs else ():
            columns.setdefault(name, []).extend(column)
    assert columns["tokens"] == texts_of(endpoint.tokenizer, ids)
    assert columns["token_logprobs"] == [logprob_of(token_id) for token_id in ids]
    assert columns["top_logprobs"] == [
        {shown: logprob_of(at)} for shown, at in zip(columns["tokens"], ids, strict=True)
    ]
    offsets = columns["text_offset"]
    starts = [len(endpoint.tokenizer.decode(ids[:at]).rstrip("\ufffd")) for at in range(len(ids))]
    parts = [at for at, shown in enumerate(columns["tokens"]) if "bytes:" in shown]
    assert all(offsets[at] == starts[at] for at in range(len(ids)) if at not in parts)
    assert all(0 <= starts[at] - offsets[at] <= 1 for at in parts), "at most the space that waits with its character"
    assert 0 < len(parts) < len(ids)
    assert offsets == sorted(offsets)
    assert text == " wörld 🙂 ok"


def test_the_chosen_token_is_always_among_the_top_of_a_completion(endpoint: Endpoint) -> None:
    (chosen,), (other,) = endpoint.ids("a"), endpoint.ids("b")
    endpoint.plays(
        [Delta([chosen], RequestState.FINISHED_MAX_LENGTH, Extras(logprobs=[TokenLogprobs(-3.0, [(other, -0.5)])]))]
    )
    answer = endpoint.client.completions.create(model=MODEL, prompt="x", logprobs=1)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.top_logprobs == [{"b": -0.5, "a": -3.0}]


def test_of_ids_that_read_the_same_the_chosen_one_stands_in_a_completion() -> None:
    tops = [TopLogprob("b", -0.1, [98]), TopLogprob("a", -0.2, [97]), TopLogprob("b", -0.3, [98])]
    shown = completion_logprobs([(0, TokenLogprob("a", -5.0, [97], tops))])
    assert shown.top_logprobs == [{"b": -0.1, "a": -5.0}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", [1, 3, 100])
def test_tokens_of_a_stop_string_have_no_entry(endpoint: Endpoint, stream: bool, group: int) -> None:
    ids = endpoint.ids("one two STOP three")
    endpoint.plays(script_of(ids, group))
    text, entries, usage = chat_entries(endpoint, stream, stop=[" STOP", "never"])
    assert text == "one two"
    num_begun = sum(len(endpoint.tokenizer.decode(ids[:at])) < len(text) for at in range(len(ids)))
    assert [entry.token for entry in entries] == texts_of(endpoint.tokenizer, ids[:num_begun])
    assert usage.completion_tokens > num_begun, "a control: the stop string was generated too"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_that_does_not_come_loses_no_entry(endpoint: Endpoint, stream: bool) -> None:
    ids = endpoint.ids("one two STO")
    endpoint.plays(script_of(ids))
    text, entries, _ = chat_entries(endpoint, stream, stop="STOP")
    assert "".join(entry.token for entry in entries) == text == "one two STO"
    assert len(entries) == len(ids)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unfinished_character_at_the_limit_keeps_its_entries(endpoint: Endpoint, stream: bool) -> None:
    ids = endpoint.ids("ok 👧")[:-1]
    endpoint.plays([delta_of(ids, RequestState.FINISHED_MAX_LENGTH)])
    text, entries, _ = chat_entries(endpoint, stream)
    assert text.endswith("\ufffd")
    assert [entry.token for entry in entries] == texts_of(endpoint.tokenizer, ids)
    assert entries[-1].token.startswith("bytes:\\x")


def test_entries_leave_with_the_text_in_which_their_tokens_begin(endpoint: Endpoint) -> None:
    ids = endpoint.ids("é 🙂 STO x")
    endpoint.plays(script_of(ids))
    stream = endpoint.client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, logprobs=True, stop="STOP"
    )
    pieces = [chunk.choices[0] for chunk in stream]
    text, tokens = b"", [b""]
    for piece in pieces:
        text += (piece.delta.content or "").encode()
        tokens += [bytes(entry.bytes or []) for entry in (piece.logprobs and piece.logprobs.content) or []]
        assert b"".join(tokens).startswith(text)
        assert b"".join(tokens[:-1]) < text or not text, "the last one has begun in it"
    assert b"".join(tokens) == text == "é 🙂 STO x".encode()
    assert sum(bool(piece.logprobs) for piece in pieces) > 3, "a control: it was no single piece"
    assert (pieces[0].logprobs, pieces[-1].logprobs, pieces[-1].finish_reason) == (None, None, "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_special_tokens_in_the_middle_have_entries_without_text(endpoint: Endpoint, stream: bool) -> None:
    ids = [*endpoint.ids("one"), EOS, *endpoint.ids(" two"), EOS]
    endpoint.plays([delta_of([token_id]) for token_id in ids] + [delta_of([1], RequestState.FINISHED_MAX_LENGTH)])
    answer: Any = endpoint.client.completions.create(
        model=MODEL, prompt="a", logprobs=0, stream=stream, extra_body={"ignore_eos": True}
    )
    choices = [chunk.choices[0] for chunk in (answer if stream else [answer])]
    assert "".join(choice.text for choice in choices) == "one two"
    shown = [choice.logprobs for choice in choices if choice.logprobs]
    assert [token for each in shown for token in each.tokens] == texts_of(endpoint.tokenizer, [*ids, 1])
    assert [offset for each in shown for offset in each.text_offset][-2:] == [7, 7]


@pytest.mark.parametrize("stream", [False, True])
def test_choices_and_prompts_keep_their_own_entries(endpoint: Endpoint, stream: bool) -> None:
    def script(submission: Any, choice: int) -> Script:
        return script_of(endpoint.ids(f"{len(submission.ids)}.{choice}"), num_top=0)

    endpoint.gateway.script = script
    answer: Any = endpoint.client.completions.create(model=MODEL, prompt=[[5], [5, 6]], n=2, logprobs=0, stream=stream)
    texts = [""] * 4
    for chunk in answer if stream else [answer]:
        for choice in chunk.choices:
            texts[choice.index] += "".join(choice.logprobs.tokens) if choice.logprobs else ""
    assert texts == ["1.0", "1.1", "2.0", "2.1"]
    assert [submission.ask.num_logprobs for submission in endpoint.gateway.submissions] == [0, 0]


def test_without_logprobs_none_are_asked_for_or_shown(endpoint: Endpoint) -> None:
    endpoint.chat(logprobs=False, top_logprobs=0)
    endpoint.chat(logprobs=None)
    endpoint.complete(prompt="a", logprobs=None)
    assert [submission.ask.num_logprobs for submission in endpoint.gateway.submissions] == [None] * 3
    assert endpoint.chat().json()["choices"][0]["logprobs"] is None
    assert endpoint.complete(prompt="a").json()["choices"][0]["logprobs"] is None


def test_what_json_cannot_say_is_a_very_small_number(endpoint: Endpoint) -> None:
    minus = float("-inf")
    endpoint.plays(
        [Delta([40], RequestState.FINISHED_MAX_LENGTH, Extras(logprobs=[TokenLogprobs(minus, [(41, minus)])]))]
    )
    _, (entry,), _ = chat_entries(endpoint, stream=False, top_logprobs=1)
    assert (entry.logprob, entry.top_logprobs[0].logprob) == (-9999.0, -9999.0)


@pytest.mark.parametrize("found", [[TokenLogprobs(-1.0, [(40, -1.0)])], [TokenLogprobs(-1.0)] * 2])
def test_entries_that_the_backend_leaves_out_are_an_error(endpoint: Endpoint, found: list[TokenLogprobs]) -> None:
    endpoint.plays([Delta([40, 41], RequestState.FINISHED_MAX_LENGTH, Extras(logprobs=found))])
    with pytest.raises(openai.InternalServerError, match="left out log probabilities"):
        chat_entries(endpoint, stream=False, top_logprobs=1)
    with pytest.raises(openai.APIError, match="left out log probabilities"):
        chat_entries(endpoint, stream=True, top_logprobs=1)


# --- tool calls ------------------------------------------------------------------------------------------------------

CALL = 'Wait.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[openai.OpenAI, list[str]]]:
    """A client of a model that answers with a tool call, and the texts of that answer's tokens."""
    folder = tmp_path_factory.mktemp("calling")
    template = Path(__file__).parent / "templates" / "qwen3_tools.jinja"
    write_tokenizer(folder, chat_template=template.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(CALL, add_special=False)
    gateway = ScriptedGateway(served_model(folder), lambda submission, choice: script_of(ids))
    with running_endpoint(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client, texts_of(tokenizer, ids)


def test_tokens_of_a_tool_call_have_entries(calling: tuple[openai.OpenAI, list[str]]) -> None:
    client, expected = calling
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS, logprobs=True)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Wait.")
    assert choice.logprobs is not None
    assert [entry.token for entry in choice.logprobs.content or []] == expected


def test_tokens_of_a_streamed_tool_call_have_entries(calling: tuple[openai.OpenAI, list[str]]) -> None:
    client, expected = calling
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS, logprobs=True, stream=True))
    choices = [chunk.choices[0] for chunk in chunks]
    found = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert [entry.token for entry in found] == expected
    assert "".join(choice.delta.content or "" for choice in choices).strip() == "Wait."
    pieces = [call.function for choice in choices for call in choice.delta.tool_calls or [] if call.function]
    assert [piece.name for piece in pieces if piece.name] == ["add"]
    assert choices[-1].finish_reason == "tool_calls"
