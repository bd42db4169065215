"""llama.cpp's own URLs: /completion, /infill, /props, /slots, /apply-template, and its names in /tokenize."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from tokenizers import Tokenizer as Library

from histrio.contracts.gateway import Delta, GatewayStatus
from histrio.messages import Extras, RequestState
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.gap_marks import gap_marks
from histrio_api.text.tokenizer import Tokenizer

MODEL = "test/scripted"
MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"]
SETTINGS = {"temperature": 0.7, "n_predict": 3, "seed": -1, "stop": [], "stream": False}


@dataclass
class Served:
    """An endpoint over a script; the tokenizer knows how gaps are filled."""

    http: httpx.Client
    gateway: ScriptedGateway
    tokenizer: Tokenizer

    def says(self, text: str) -> None:
        ids = self.ids(text)
        self.gateway.script = lambda submission, choice: saying(ids, num_logprobs=submission.ask.num_logprobs)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special=False)

    def mark(self, name: str) -> int:
        found = self.tokenizer.id_of(name)
        assert found is not None
        return found

    def post(self, path: str = "/completion", **fields: Any) -> httpx.Response:
        return self.http.post(path, json=fields)

    def answer(self, path: str = "/completion", **fields: Any) -> dict[str, Any]:
        response = self.post(path, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def events(self, path: str = "/completion", **fields: Any) -> list[dict[str, Any]]:
        text = self.post(path, stream=True, **fields).text
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("llama")
    write_tokenizer(folder)
    file = str(folder / "tokenizer.json")
    library = Library.from_file(file)
    library.add_special_tokens(MARKS)
    library.save(file)
    gateway = ScriptedGateway(replace(served_model(folder), vocab_size=500), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url, httpx.Client(base_url=url) as http:
        yield Served(http, gateway, Tokenizer.load(folder, bos_id=0))


@pytest.fixture
def served(shared: Served) -> Served:
    shared.says("Hi there!")
    shared.gateway.status = GatewayStatus(state="ready", progress=1.0, num_unfinished=1, max_unfinished_requests=3)
    shared.gateway.submissions.clear()
    return shared


def test_a_whole_answer_has_every_field(served: Served) -> None:
    answer = served.answer(prompt="Hello", n_predict=3, cache_prompt=True, return_tokens=True)
    timings = answer.pop("timings")
    said = served.ids("Hi there!")
    assert answer == {
        "index": 0,
        "content": "Hi there!",
        "tokens": [*said, 2],
        "id_slot": -1,
        "stop": True,
        "model": MODEL,
        "tokens_predicted": len(said) + 1,
        "tokens_evaluated": len(served.gateway.submissions[0].ids),
        "generation_settings": SETTINGS,
        "prompt": "Hello",
        "has_new_line": False,
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
        "tokens_cached": 0,
    }
    assert timings["predicted_n"] == len(said) + 1
    assert timings["prompt_n"] == answer["tokens_evaluated"]
    assert timings["prompt_ms"] > 0
    assert timings["prompt_per_second"] == pytest.approx(1000 * timings["prompt_n"] / timings["prompt_ms"])
    assert served.answer(prompt="Hello")["tokens"] == [], "control: only where they are asked for"


def test_a_stream_has_its_tokens_with_their_text_and_ends_with_the_result(served: Served) -> None:
    events = served.events(prompt="Hello")
    assert "".join(each["content"] for each in events) == "Hi there!"
    assert [token for each in events for token in each["tokens"]] == [*served.ids("Hi there!"), 2]
    assert [each["stop"] for each in events] == [False] * (len(events) - 1) + [True]
    assert events[0].keys() == {
        *("index", "content", "tokens", "id_slot", "stop"),
        *("tokens_predicted", "tokens_evaluated"),
    }
    assert events[-1].keys() == served.answer(prompt="Hello").keys()


def test_an_answer_ends_for_a_reason(served: Served) -> None:
    served.says("one two three")
    word = served.answer(prompt="Count", stop=[" two"], return_tokens=True)
    assert (word["content"], word["stop_type"], word["stopping_word"]) == ("one", "word", " two")
    assert len(word["tokens"]) == word["tokens_predicted"]
    served.gateway.script = lambda submission, choice: [Delta([9], RequestState.FINISHED_MAX_LENGTH, Extras())]
    assert served.answer(prompt="Count", n_predict=1)["stop_type"] == "limit"
    served.says("a\nb")
    assert served.answer(prompt="Count")["has_new_line"]
    assert served.events(prompt="Count")[-1]["has_new_line"]


@pytest.mark.parametrize("prompt", [[5, []], ["Hello", 5, ["x"]], [[5], 6]])
def test_a_list_among_token_ids_is_no_prompt(served: Served, prompt: list[Any]) -> None:
    answer = served.http.post("/completion", json={"prompt": prompt})
    assert answer.status_code == 400
    assert "a list cannot stand among token ids" in answer.json()["error"]["message"]
    assert len(served.answer(prompt=[[5], "Hello", [6, "x"]])) == 3, "control: prompts may be lists and texts"


def test_a_prompt_may_be_texts_and_ids_in_one(served: Served) -> None:
    served.answer(prompt=[5, "Hello", 6])
    assert served.gateway.submissions[-1].ids == [5, *served.ids("Hello"), 6]
    served.answer(prompt=["Hello", 6])
    assert served.gateway.submissions[-1].ids == [0, *served.ids("Hello"), 6], "BOS stands before a text that is first"
    served.answer(prompt=[5, 6])
    assert served.gateway.submissions[-1].ids == [5, 6]


def test_several_prompts_have_a_list_of_results(served: Served) -> None:
    response = served.post(prompt=["Hello", [7, "you"], [8, 9]])
    assert [each["index"] for each in response.json()] == [0, 1, 2]
    asked = [each.ids for each in served.gateway.submissions]
    assert asked == [[0, *served.ids("Hello")], [7, *served.ids("you")], [8, 9]]
    ends = [each for each in served.events(prompt=["Hello", "you"]) if each["stop"]]
    assert sorted(each["index"] for each in ends) == [0, 1]


def test_log_probabilities_have_ids(served: Served) -> None:
    found = served.answer(prompt="Hello", n_probs=2)["completion_probabilities"]
    assert [each["id"] for each in found] == served.ids("Hi there!")
    assert [[top["id"] for top in each["top_logprobs"]] for each in found] == [[0, 1]] * len(found)
    streamed = [
        entry for each in served.events(prompt="Hello", n_probs=2) for entry in each["completion_probabilities"]
    ]
    assert streamed == found
    assert "completion_probabilities" not in served.answer(prompt="Hello"), "control"


def test_fields_by_llama_cpps_names_reach_the_engine(served: Served) -> None:
    sampling = {"temperature": 0.5, "top_k": 7}
    others = {"prompt": "Hello", "n_predict": 4, "seed": 11, "ignore_eos": True, "samplers": [], "n_keep": 2}
    response = served.http.post("/completions", json=others | sampling)
    assert response.status_code == 200, response.text
    submission = served.gateway.submissions[-1]
    assert (submission.max_new_tokens, submission.ask.seed, submission.ask.eos_ids) == (4, 11, [])
    assert submission.ask.sampling == sampling
    assert response.headers["x-histrio-ignored"] == "n_keep"


def test_nothing_to_predict_reads_the_prompt(served: Served) -> None:
    answer = served.answer(prompt="Hello", n_predict=0)
    assert (answer["content"], answer["stop_type"]) == ("", "limit")
    assert served.gateway.submissions[-1].max_new_tokens == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"samplers": ["top_k"]}, "samplers"),
        ({"n_probs": 21}, "n_probs"),
        ({"lora": [{"id": 0, "scale": 1}]}, "lora"),
        ({"logit_bias": [["Hello", 1]]}, "logit_bias"),
        ({"dynatemp_range": 0.5}, "dynatemp_range"),
        ({"t_max_predict_ms": 5}, "t_max_predict_ms"),
        ({"min_keep": 3}, "min_keep"),
        ({"repeat_last_n": 8, "repeat_penalty": 1.5}, "repeat_last_n"),
        ({"n": 2}, "n is not supported by /completion; leave it out"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": []}}, "prompt"),
        ({"prompt": []}, "prompt"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(served: Served, given: dict[str, Any], named: str) -> None:
    response = served.post(**({"prompt": "Hello"} | given))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error")
    assert error["message"].split(":")[0] == named


def test_errors_have_llama_cpps_shape(served: Served) -> None:
    assert served.post(prompt="Hello", model="other").json()["error"]["type"] == "not_found_error"
    served.gateway.script = lambda submission, choice: [
        Delta([], RequestState.ERROR, Extras(reason="it broke", code="generation_failed"))
    ]
    (event,) = served.events(prompt="Hello")
    assert event == {"error": {"code": 500, "message": "it broke", "type": "server_error"}}


def test_a_gap_is_filled_in_the_models_own_form(served: Served) -> None:
    prefix, suffix, middle, file = map(served.mark, MARKS)
    answer = served.answer("/infill", input_prefix="def f():\n", input_suffix="\nf()", prompt="    ")
    assert answer["content"] == "Hi there!"
    parts = [[prefix], served.ids("def f():\n"), [suffix], served.ids("\nf()"), [middle], served.ids("    ")]
    submission = served.gateway.submissions[-1]
    assert submission.ids == [0, *(each for part in parts for each in part)]
    assert submission.ask.stop_ids == [file], "another file is not a part of the gap"

    extra = [{"filename": "a.py", "text": "x = 1"}]
    served.answer("/infill", input_prefix="y", input_suffix="z", input_extra=extra)
    assert served.gateway.submissions[-1].ids[:2] == [0, file]
    assert "a.py\nx = 1\n" in served.tokenizer.decode(served.gateway.submissions[-1].ids)


def test_completions_fill_a_gap_before_their_suffix(served: Served) -> None:
    prefix, suffix, middle, _ = map(served.mark, MARKS)
    given: dict[str, Any] = {"prompt": "a = ", "suffix": "\nprint(a)"}
    assert served.answer("/v1/completions", **given)["choices"][0]["text"] == "Hi there!"
    expected = [0, prefix, *served.ids("a = "), suffix, *served.ids("\nprint(a)"), middle]
    assert served.gateway.submissions[-1].ids == expected
    served.answer("/api/generate", stream=False, **given)
    assert served.gateway.submissions[-1].ids == expected
    assert served.post("/v1/completions", echo=True, **given).status_code == 400
    assert served.post("/v1/completions", prompt=[5], suffix="x").status_code == 400


def test_a_model_without_such_tokens_says_so(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    gateway = ScriptedGateway(served_model(tmp_path), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url, httpx.Client(base_url=url) as http:
        filled = http.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
        completed = http.post("/v1/completions", json={"prompt": "a", "suffix": "b"})
    assert [each.status_code for each in (filled, completed)] == [400, 400]
    assert filled.json()["error"]["message"].startswith("input_prefix: this model has no tokens for filling gaps")
    assert completed.json()["error"]["param"] == "suffix"


def test_families_put_the_parts_of_a_gap_in_their_own_order() -> None:
    codestral = gap_marks({"[PREFIX]": 4, "[SUFFIX]": 5}.get)
    assert codestral is not None
    assert (codestral.is_suffix_first, codestral.prefix, codestral.suffix, codestral.middle) == (True, 4, 5, None)
    assert gap_marks({"<|fim_prefix|>": 4, "<|fim_suffix|>": 5}.get) is None, "control: all marks have to be there"


def test_the_model_and_its_slots_are_shown(served: Served) -> None:
    props = served.http.get("/props").json()
    assert props["total_slots"] == 3
    assert props["default_generation_settings"] == {"n_ctx": 512, "params": {"temperature": 0.7}}
    assert (props["bos_token"], props["eos_token"]) == ("<|bos|>", "<|im_end|>")
    assert "add_generation_prompt" in props["chat_template"]
    slots = served.http.get("/slots").json()
    assert [each["is_processing"] for each in slots] == [True, False, False]
    assert served.http.get("/slots?fail_on_no_slot=1").status_code == 200
    served.gateway.status.num_unfinished = 3
    busy = served.http.get("/slots?fail_on_no_slot=1")
    assert (busy.status_code, busy.json()["error"]["type"]) == (503, "unavailable_error")


def test_a_chat_is_rendered_without_being_answered(served: Served) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert served.answer("/apply-template", messages=messages) == {"prompt": text}
    for path in ("/render", "/v1/chat/completions/render"):
        rendered = served.answer(path, messages=messages)
        served.answer("/v1/chat/completions", messages=messages)
        assert rendered == {
            "prompt": text,
            "token_ids": served.gateway.submissions[-1].ids,
            "count": len(served.gateway.submissions[-1].ids),
            "model": MODEL,
        }
    assert served.answer("/render", messages=messages, add_generation_prompt=False)["prompt"] != text, "control"
    wrong = served.post("/apply-template", messages=[])
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, 400)


def test_tokens_are_asked_for_by_llama_cpps_names(served: Served) -> None:
    text = "naïve 🙂"
    ids = served.ids(text)
    assert served.answer("/tokenize", content=text)["tokens"] == ids
    assert served.answer("/tokenize", content=text, add_special=True, parse_special=True)["tokens"] == [0, *ids]
    pieces = served.answer("/tokenize", content=text, with_pieces=True)["tokens"]
    assert [each["id"] for each in pieces] == ids
    whole = b"".join(
        each["piece"].encode() if isinstance(each["piece"], str) else bytes(each["piece"]) for each in pieces
    )
    assert whole.decode() == text
    assert served.answer("/detokenize", tokens=ids)["content"] == text
    assert served.post("/tokenize", content="a", prompt="a").status_code == 400
