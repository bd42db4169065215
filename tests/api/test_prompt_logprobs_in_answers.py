"""Echoed prompts in answers: where their tokens stand, when they go out, and what usage says of drafted tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import openai
import pytest

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState, TokenLogprobs
from histrio_api.testing import Gate, Script

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

MODEL = "test/scripted"
EOS = 2
DECODING = RequestState.DECODING


def score_of(token_id: int) -> TokenLogprobs:
    return TokenLogprobs(-token_id / 64, [(token_id + at, -token_id / 64 - at) for at in range(5)])


def scores_of(ids: Sequence[int]) -> list[TokenLogprobs]:
    """As the first delta has them, with more of the likeliest than are shown."""
    return [score_of(token_id) for token_id in ids[1:]]


def delta_of(token_id: int, state: RequestState = DECODING, prompt: Sequence[int] = ()) -> Delta:
    score = score_of(token_id)
    said = TokenLogprobs(score.logprob, score.top[:2])
    return Delta([token_id], state, Extras(logprobs=[said], prompt_logprobs=scores_of(prompt)))


def script_of(prompt: Sequence[int], ids: Sequence[int]) -> Script:
    """A token at a time, then the one that ends the text."""
    states = [DECODING] * len(ids) + [RequestState.FINISHED_EOS]
    pairs = enumerate(zip([*ids, EOS], states, strict=True))
    return [delta_of(token_id, state, () if at else prompt) for at, (token_id, state) in pairs]


def columns_of(endpoint: Endpoint, stream: bool, **fields: Any) -> tuple[str, Any, str]:
    """Text, columns and finish reason of the first choice."""
    asked: dict[str, Any] = {"model": MODEL, "echo": True, "logprobs": 2} | fields
    if not stream:
        (choice,) = endpoint.client.completions.create(**asked).choices
        assert choice.logprobs is not None
        return choice.text, choice.logprobs.model_dump(), choice.finish_reason
    columns: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    text, reason = "", ""
    for chunk in endpoint.client.completions.create(stream=True, **asked):
        (choice,) = chunk.choices
        text, reason = text + choice.text, choice.finish_reason
        for name, column in columns.items() if choice.logprobs else ():
            column += getattr(choice.logprobs, name)
    return text, columns, reason


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("as_ids", [False, True])
def test_every_token_has_its_entry_and_its_place(endpoint: Endpoint, stream: bool, as_ids: bool) -> None:
    prompt, answer = "naïve café – 🙂 the", " quick 日本!"
    ids, answer_ids = endpoint.ids(prompt), endpoint.ids(answer)
    added = [] if as_ids else [0]
    endpoint.plays(script_of([*added, *ids], answer_ids))
    text, columns, reason = columns_of(endpoint, stream, prompt=ids if as_ids else prompt)
    (submission,) = endpoint.gateway.submissions
    assert (submission.ids, submission.ask.num_prompt_logprobs, submission.ask.num_logprobs) == ([*added, *ids], 2, 2)

    all_ids = [*added, *ids, *answer_ids, EOS]
    assert (text, reason) == (prompt + answer, "stop")
    assert columns["tokens"] == [endpoint.tokenizer.spell(token_id)[0] for token_id in all_ids]
    assert columns["token_logprobs"] == [None, *(score_of(token_id).logprob for token_id in all_ids[1:])]
    assert columns["top_logprobs"][0] is None
    assert [len(top) for top in columns["top_logprobs"][1:]] == [2] * (len(all_ids) - 1)
    offsets = columns["text_offset"]
    assert offsets == sorted(offsets)
    assert (offsets[0], offsets[-1]) == (0, len(text))
    for token, start in zip(columns["tokens"], offsets, strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert text[start : start + len(token)] == token
    assert sum(token.startswith("bytes:") for token in columns["tokens"]) > 4, "characters are split here"


@pytest.mark.parametrize("stream", [False, True])
def test_special_tokens_that_a_prompt_spells_stand_in_its_text(endpoint: Endpoint, stream: bool) -> None:
    prompt = "<|im_start|>user\nHello<|im_end|>\n"
    ids = endpoint.ids(prompt)
    endpoint.plays(script_of([0, *ids], []))
    text, columns, _ = columns_of(endpoint, stream, prompt=prompt)
    assert text == prompt
    assert columns["tokens"][:2] == ["<|bos|>", "<|im_start|>"]
    assert columns["text_offset"][:3] == [0, 0, len("<|im_start|>")]
    ends = [*columns["text_offset"][1:], len(text)]
    pieces = [text[start:end] for start, end in zip(columns["text_offset"], ends, strict=True)]
    assert pieces == ["", *columns["tokens"][1:-1], ""]


def test_the_end_has_an_entry_beside_an_echo_only(endpoint: Endpoint) -> None:
    ids = endpoint.ids("Hello")
    endpoint.plays(script_of([0, *ids], endpoint.ids(" world")))
    _, echoed, _ = columns_of(endpoint, False, prompt="Hello")
    _, plain, _ = columns_of(endpoint, False, prompt="Hello", echo=False)
    assert echoed["tokens"][-1] == "<|im_end|>"
    assert plain["tokens"] == echoed["tokens"][1 + len(ids) : -1]
    assert endpoint.gateway.submissions[-1].ask.num_prompt_logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_and_what_belongs_to_it_have_no_entry(endpoint: Endpoint, stream: bool) -> None:
    ids = endpoint.ids("Hello")
    endpoint.plays(script_of([0, *ids], endpoint.ids(" world. The end")))
    text, columns, reason = columns_of(endpoint, stream, prompt="Hello", stop=". The")
    assert (text, reason) == ("Hello world", "stop")
    assert "".join(columns["tokens"][1:]) == text


def test_other_choices_wait_for_the_scores_of_the_first(endpoint: Endpoint) -> None:
    ids = [0, *endpoint.ids("Hello")]
    gate = Gate()
    scripts: list[Script] = [[gate, *script_of(ids, endpoint.ids(" one"))], script_of((), endpoint.ids(" two"))]
    endpoint.gateway.script = lambda submission, choice: scripts[choice]
    texts, seen = ["", ""], []
    stream = endpoint.client.completions.create(model=MODEL, prompt="Hello", echo=True, logprobs=0, n=2, stream=True)
    gate.open()
    for chunk in stream:
        (choice,) = chunk.choices
        if not texts[choice.index]:
            assert choice.logprobs is not None
            seen.append(choice.logprobs.token_logprobs[: len(ids)] if choice.logprobs.token_logprobs else [])
        texts[choice.index] += choice.text
    assert texts == ["Hello one", "Hello two"]
    assert seen == [[None, *(score_of(token_id).logprob for token_id in ids[1:])]] * 2


def test_scores_that_a_backend_leaves_out_are_an_error(endpoint: Endpoint) -> None:
    endpoint.plays(script_of((), endpoint.ids(" world")))
    with pytest.raises(openai.InternalServerError, match="left out log probabilities of the prompt"):
        endpoint.client.completions.create(model=MODEL, prompt="Hello", echo=True, logprobs=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_usage_counts_drafts_over_all_choices(endpoint: Endpoint, stream: bool, route: str) -> None:
    ids = endpoint.ids("Hi!")
    deltas = [
        Delta(ids[:1], DECODING),
        Delta(ids[1:], DECODING, Extras(num_drafted=5, num_accepted=2)),
        Delta([EOS], RequestState.FINISHED_EOS, Extras(num_drafted=3)),
    ]
    endpoint.plays(deltas)
    asked: dict[str, Any] = {"model": MODEL, "n": 2, "stream": stream}
    asked |= {"stream_options": {"include_usage": True}} if stream else {}
    if route == "chat":
        answer: Any = endpoint.client.chat.completions.create(messages=[{"role": "user", "content": "a"}], **asked)
    else:
        answer = endpoint.client.completions.create(prompt="a", **asked)
    usage = [chunk.usage for chunk in answer][-1] if stream else answer.usage
    details = usage.completion_tokens_details
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (4, 12)
    assert usage.completion_tokens == 2 * (len(ids) + 1), "those that were wrong are no part of the answer"


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_prompts_scores_are_those_of_its_tokens(endpoint: Endpoint, stream: bool) -> None:
    """Long enough to be made in pieces, and in a thread."""
    ids = [10 + at % 300 for at in range(510)]
    endpoint.plays(script_of(ids, []))
    _, columns, _ = columns_of(endpoint, stream, prompt=ids, max_tokens=1)
    assert columns["token_logprobs"] == [None, *(score_of(each).logprob for each in ids[1:]), score_of(EOS).logprob]
    if not stream:
        endpoint.plays(script_of(ids, []))
        (choice,) = endpoint.complete(prompt=ids, max_tokens=1, prompt_logprobs=2).json()["choices"]
        first, *others = choice["prompt_logprobs"]
        assert first is None
        assert [found[str(each)]["logprob"] for each, found in zip(ids[1:], others, strict=True)] == [
            score_of(each).logprob for each in ids[1:]
        ]


@pytest.mark.parametrize(
    ("fields", "param"), [({"prompt_logprobs": 20}, "prompt_logprobs"), ({"echo": True, "logprobs": 20}, "echo")]
)
def test_more_scores_than_are_given_are_refused(endpoint: Endpoint, fields: dict[str, Any], param: str) -> None:
    prompts = [[10] * 500] * 50
    error = endpoint.complete(prompt=prompts, max_tokens=1, **fields).json()["error"]
    assert error["param"] == param
    assert "at most 524288 log probabilities" in error["message"]
    assert not endpoint.gateway.submissions
    endpoint.plays(script_of(prompts[0], []))
    assert endpoint.complete(prompt=prompts[0], max_tokens=1, **fields).status_code == 200
