"""/v1/chat/completions, judged by the official client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState, TokenLogprobs

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

MODEL = "test/scripted"
HELLO: Any = [{"role": "user", "content": "Hello"}]
TEXT = 'naïve 日本語 🙂 <b>&"quotes"</b>\n\ttab'


def streamed(endpoint: Endpoint, **fields: Any) -> list[Any]:
    fields = {"model": MODEL, "messages": HELLO} | fields
    return list(endpoint.client.chat.completions.create(stream=True, **fields))


def test_an_answer_has_text_reason_and_usage(endpoint: Endpoint) -> None:
    endpoint.says(TEXT)
    answer = endpoint.client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.system_fingerprint
    assert answer.created > 1_700_000_000
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(endpoint.ids(TEXT)) + 1  # the id that ends the text
    assert answer.usage.prompt_tokens == len(endpoint.gateway.submissions[0].ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_as_a_plain_answer(endpoint: Endpoint) -> None:
    endpoint.says(TEXT)
    chunks = streamed(endpoint)
    first, last = chunks[0], chunks[-1]
    assert first.choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == "stop"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    assert first.object == "chat.completion.chunk"


def test_usage_of_a_stream_comes_last_when_asked_for(endpoint: Endpoint) -> None:
    endpoint.says("some words")
    chunks = streamed(endpoint, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(endpoint.ids("some words")) + 1
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_usage_comes_with_every_chunk_when_asked_for(endpoint: Endpoint) -> None:
    endpoint.says("some words")
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [chunk.usage.completion_tokens for chunk in streamed(endpoint, stream_options=options)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, len(endpoint.ids("some words")) + 1)


def test_choices_keep_their_index_and_text(endpoint: Endpoint) -> None:
    words = ["zero", "one", "two"]
    scripts = [endpoint.ids(word) for word in words]
    from histrio_api.testing import saying

    endpoint.gateway.script = lambda submission, choice: saying(scripts[choice])
    answer = endpoint.client.chat.completions.create(model=MODEL, messages=HELLO, n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == list(enumerate(words))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(endpoint.gateway.submissions[0].ids), "a prompt is counted once"
    assert answer.usage.completion_tokens == sum(map(len, scripts)) + 3

    texts = ["", "", ""]
    for chunk in streamed(endpoint, n=3):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == words


def test_the_prompt_is_the_rendered_chat_without_a_second_bos(endpoint: Endpoint) -> None:
    chat = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    endpoint.chat(messages=chat)
    rendered = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    (submission,) = endpoint.gateway.submissions
    assert endpoint.tokenizer.decode(submission.ids, skip_special=False) == rendered
    assert submission.ids.count(0) == 0


def test_fields_reach_the_engine(endpoint: Endpoint) -> None:
    endpoint.chat(max_tokens=7, seed=-1, top_k=5, n=2, stop_token_ids=[9], temperature=0.1)
    (submission,) = endpoint.gateway.submissions
    assert submission.max_new_tokens == 7
    assert submission.ask.seed == 2**64 - 1
    assert submission.ask.sampling == {"temperature": 0.1, "top_k": 5}
    assert (submission.num_choices, submission.ask.stop_ids, submission.ask.eos_ids) == (2, [9], [2])


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64 - 1, 2**64 + 7, -(2**80), 10**300])
def test_any_integer_is_a_seed(endpoint: Endpoint, seed: int) -> None:
    for given in (seed, seed, seed + 1):
        assert endpoint.chat(seed=given).status_code == 200
    first, again, other = (each.ask.seed for each in endpoint.gateway.submissions)
    assert first == again == seed % 2**64
    assert other != first, "control"


def test_the_models_defaults_hold_where_the_request_is_silent(endpoint: Endpoint) -> None:
    endpoint.chat(ignore_eos=True, top_p=0.9)
    (submission,) = endpoint.gateway.submissions
    assert submission.ask.sampling == {"temperature": 0.7, "top_p": 0.9}
    assert submission.max_new_tokens == 512 - len(submission.ids), "by default all that fits"
    assert (submission.ask.eos_ids, submission.ask.seed) == ([], None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", [1, 3, 100])
def test_a_stop_string_that_spans_tokens_ends_the_answer(endpoint: Endpoint, stream: bool, group: int) -> None:
    ids = [*endpoint.ids("one two STOP three"), 2]
    deltas = [Delta(ids[at : at + group], RequestState.DECODING) for at in range(0, len(ids), group)]
    deltas[-1].state = RequestState.FINISHED_EOS
    endpoint.plays(deltas)
    if stream:
        chunks = streamed(endpoint, stop=[" STOP", "never"], stream_options={"include_usage": True})
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        reason, usage = chunks[-2].choices[0].finish_reason, chunks[-1].usage
    else:
        answer = endpoint.client.chat.completions.create(model=MODEL, messages=HELLO, stop=[" STOP", "never"])
        text = answer.choices[0].message.content or ""
        reason, usage = answer.choices[0].finish_reason, answer.usage
    assert (text, reason) == ("one two", "stop")
    num_read = next(at for at in range(len(ids)) if " STOP" in endpoint.tokenizer.decode(ids[:at]))
    assert usage.completion_tokens == num_read, "independent of how tokens were grouped"
    assert len(endpoint.ids("STOP")) > 1, "the stop string must span tokens"
    if group < len(ids):  # else there is nothing left to cancel
        assert endpoint.gateway.streams[0].cancelled_with is RequestState.FINISHED_STOP


@pytest.mark.parametrize("name", ["include_stop_str_in_output", "no_stop_trim"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_stop_string_is_part_of_the_text_where_that_is_asked_for(
    endpoint: Endpoint, is_stream: bool, name: str
) -> None:
    def text(**fields: Any) -> str:
        stops: dict[str, Any] = {"stop": [" STOP", "never"], "extra_body": fields}
        if is_stream:
            return "".join(
                chunk.choices[0].delta.content or "" for chunk in streamed(endpoint, **stops) if chunk.choices
            )
        answer = endpoint.client.chat.completions.create(model=MODEL, messages=HELLO, **stops)
        assert answer.choices[0].finish_reason == "stop"
        return answer.choices[0].message.content or ""

    endpoint.says("one two STOP three")
    assert text(**{name: True}) == "one two STOP"
    assert text(**{name: False}) == text() == "one two", "a control"


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_token_that_ends_the_text_is_part_of_it_where_that_is_asked_for(
    endpoint: Endpoint, logprobs: int | None
) -> None:
    *others, last = endpoint.ids("one two!")
    extras = Extras() if logprobs is None else Extras(logprobs=[TokenLogprobs(-0.5)])
    script = [Delta([each], RequestState.DECODING, extras) for each in others]
    endpoint.plays([*script, Delta([last], RequestState.FINISHED_STOP, extras)])
    ends: dict[str, Any] = {"prompt": "a", "stop_token_ids": [last], "logprobs": logprobs}
    shown = endpoint.complete(**ends, include_stop_str_in_output=True).json()
    hidden = endpoint.complete(**ends).json()
    assert (shown["choices"][0]["text"], hidden["choices"][0]["text"]) == ("one two!", "one two")
    assert shown["usage"] == hidden["usage"], "it was drawn either way"
    if logprobs is not None:
        assert [len(each["choices"][0]["logprobs"]["tokens"]) for each in (shown, hidden)] == [
            len(others) + 1,
            len(others),
        ]


def test_text_held_back_for_a_stop_string_is_not_lost(endpoint: Endpoint) -> None:
    endpoint.says("one two STO")
    chunks = streamed(endpoint, stop="STOP")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two STO"


def test_the_length_limit_is_the_reason_length(endpoint: Endpoint) -> None:
    endpoint.plays([Delta(endpoint.ids("word"), RequestState.FINISHED_MAX_LENGTH)])
    answer = endpoint.client.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=3)
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("length", "word")
    assert streamed(endpoint)[-1].choices[0].finish_reason == "length"


def test_an_unfinished_character_at_the_limit_comes_out_as_the_plain_decoding(endpoint: Endpoint) -> None:
    ids = endpoint.ids("ok 👧")[:-1]
    endpoint.plays([Delta(ids, RequestState.FINISHED_MAX_LENGTH)])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed(endpoint))
    assert text == endpoint.tokenizer.decode(ids)
    assert text.endswith("\ufffd")


def test_the_final_message_can_be_continued(endpoint: Endpoint) -> None:
    chat = [*HELLO, {"role": "assistant", "content": "I think "}]
    endpoint.chat(messages=chat, add_generation_prompt=False, continue_final_message=True)
    text = endpoint.tokenizer.decode(endpoint.gateway.submissions[0].ids, skip_special=False)
    assert text.endswith("<|im_start|>assistant\nI think ")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"n": 17}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop_token_ids": [400]}, "stop_token_ids"),
        ({"stop_token_ids": [10**30]}, "stop_token_ids"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"stop": "x" * 257}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "continue_final_message"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_cannot_be_honoured_is_a_400_with_the_field(
    endpoint: Endpoint, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        endpoint.client.post("/chat/completions", body={"model": MODEL, "messages": HELLO} | fields, cast_to=object)
    assert caught.value.param == param
    assert endpoint.gateway.submissions == []


def test_too_long_a_prompt_is_refused_with_the_numbers(endpoint: Endpoint) -> None:
    with pytest.raises(openai.BadRequestError, match="512") as caught:
        endpoint.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 600}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_bound_of_an_answer_may_be_beyond_the_room(endpoint: Endpoint, field: str) -> None:
    endpoint.chat()
    room = endpoint.gateway.submissions[0].max_new_tokens
    for requested in (room - 1, room, room + 1, 2**31 - 1):
        assert endpoint.chat(**{field: requested}).status_code == 200
        assert endpoint.gateway.submissions[-1].max_new_tokens == min(requested, room)
    full = [{"role": "user", "content": "word " * 600}]
    assert endpoint.chat(messages=full, **{field: 1}).status_code == 400, "control: no room at all"


def test_long_prompts_are_encoded_beside_the_loop_with_the_same_ids(endpoint: Endpoint) -> None:
    filler = " " * 20_000  # long as text, refused as tokens or not: only the ids matter
    endpoint.chat(messages=[{"role": "user", "content": "Hello"}], metadata={"note": filler})
    endpoint.chat(messages=[{"role": "user", "content": "Hello"}])
    in_thread, in_loop = endpoint.gateway.submissions
    assert in_thread.ids == in_loop.ids
