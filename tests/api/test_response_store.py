"""Responses that are kept: found, gone on from, listed and deleted, by the same key and within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from histrio_api.shared.response_store import KeptResponse, ResponseStore
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model
from histrio_api.text.tokenizer import Tokenizer

MODEL = "test/scripted"


class Served:
    """An endpoint with the official client."""

    def __init__(self, client: openai.OpenAI, gateway: ScriptedGateway, tokenizer: Tokenizer) -> None:
        self.client, self.gateway, self.tokenizer = client, gateway, tokenizer

    def says(self, text: str) -> None:
        ids = self.tokenizer.encode(text, add_special=False)
        self.gateway.script = lambda submission, choice: saying(ids)

    def ask(self, text: str, **fields: Any) -> Any:
        return self.client.responses.create(model=MODEL, input=text, **fields)

    @property
    def prompt(self) -> str:
        return self.tokenizer.decode(self.gateway.submissions[-1].ids, skip_special=False)


@pytest.fixture(scope="module")
def gateway(model_folder: Path) -> ScriptedGateway:
    return ScriptedGateway(served_model(model_folder, 4096), lambda submission, choice: saying([]))


@pytest.fixture(scope="module")
def served(gateway: ScriptedGateway, tokenizer: Tokenizer) -> Iterator[Served]:
    with (
        running_endpoint(gateway) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Served(client, gateway, tokenizer)


def test_a_conversation_goes_on_from_a_response(served: Served) -> None:
    served.says("Hi there!")
    first = served.ask("Hello", instructions="Be brief.")
    served.says("Five.")
    second = served.ask("Two and three?", previous_response_id=first.id, instructions="Be kind.")
    with served.client.responses.stream(model=MODEL, input="And two?", previous_response_id=second.id) as stream:
        third: Any = stream.get_final_response()
    prompt = served.prompt
    said = [
        ("user", "Hello"),
        ("assistant", "Hi there!"),
        ("user", "Two and three?"),
        ("assistant", "Five."),
        ("user", "And two?"),
    ]
    messages: Any = [{"role": role, "content": text} for role, text in said]
    served.client.chat.completions.create(model=MODEL, messages=messages)
    assert prompt == served.prompt, "the whole conversation, without the instructions of earlier turns"
    assert (third.previous_response_id, second.previous_response_id) == (second.id, first.id)

    for is_known in (True, False):
        counted = served.client.responses.input_tokens.count(
            model=MODEL, input="And two?", previous_response_id=second.id if is_known else None
        )
        assert (counted.input_tokens == third.usage.input_tokens) is is_known

    items: list[Any] = list(served.client.responses.input_items.list(third.id, order="asc", limit=2))
    assert [(item.role, item.content[0].text) for item in items] == said
    page = served.client.responses.input_items.list(third.id, limit=2)
    assert [item.id for item in page.data] == [item.id for item in reversed(items)][:2]
    assert page.has_more
    assert not served.client.responses.input_items.list(third.id, limit=5).has_more
    kept_third = served.client.responses.retrieve(third.id)
    assert (kept_third.output_text, kept_third.usage) == (third.output_text, third.usage)
    assert served.client.responses.retrieve(first.id) == first

    served.client.responses.delete(first.id)
    for gone in (first.id, "resp_x"):
        with pytest.raises(openai.NotFoundError, match="no such response"):
            served.client.responses.retrieve(gone)
        with pytest.raises(openai.NotFoundError):
            served.client.responses.delete(gone)
        with pytest.raises(openai.NotFoundError):
            served.client.responses.input_items.list(gone)
    with pytest.raises(openai.BadRequestError, match="is not kept here") as caught:
        served.ask("And two?", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"
    assert served.client.responses.retrieve(second.id) == second, "control: only the first is gone"


def test_items_may_be_referred_to(served: Served) -> None:
    served.says("Five.")
    first = served.ask("Two and three?")
    served.ask("And two?", previous_response_id=first.id)
    prompt = served.prompt
    asked = served.client.responses.input_items.list(first.id).data[0]
    history: Any = [
        {"type": "item_reference", "id": asked.id},
        {"id": first.output[0].id},
        {"role": "user", "content": "And two?"},
    ]
    last = served.ask(history)
    assert served.prompt == prompt
    served.client.responses.delete(first.id)
    served.ask("And?", previous_response_id=last.id)
    assert "Two and three?" in served.prompt, "what a response was asked is kept with it"


def test_what_is_not_to_be_kept_is_not(served: Served) -> None:
    served.says("Five.")
    answer = served.ask("Two and three?", store=False)
    assert not answer.store
    with pytest.raises(openai.NotFoundError):
        served.client.responses.retrieve(answer.id)


def test_nothing_is_kept_where_that_is_switched_off(gateway: ScriptedGateway) -> None:
    with running_endpoint(gateway, **{"store-responses": False}) as url, httpx.Client(base_url=url) as http:
        asked = http.post("/v1/responses", json={"input": "Hello", "store": True})
        assert (asked.json()["store"], asked.headers["x-histrio-ignored"]) == (False, "store")
        unasked = http.post("/v1/responses", json={"input": "Hello"})
        assert "x-histrio-ignored" not in unasked.headers
        assert http.get(f"/v1/responses/{asked.json()['id']}").status_code == 404
        refused = http.post("/v1/responses", json={"input": "x", "previous_response_id": asked.json()["id"]})
        assert "this server keeps no responses" in refused.json()["error"]["message"]


def test_no_key_finds_what_another_was_answered(gateway: ScriptedGateway) -> None:
    with running_endpoint(gateway, **{"api-keys": ["mine", "other"]}) as url, httpx.Client(base_url=url) as http:

        def statuses(key: str) -> list[int]:
            headers = {"authorization": f"Bearer {key}"}
            going_on = {"input": "x", "previous_response_id": answer["id"]}
            return [
                http.get(f"/v1/responses/{answer['id']}", headers=headers).status_code,
                http.get(f"/v1/responses/{answer['id']}/input_items", headers=headers).status_code,
                http.post("/v1/responses", json=going_on, headers=headers).status_code,
                http.post("/v1/responses/input_tokens", json=going_on, headers=headers).status_code,
                http.delete(f"/v1/responses/{answer['id']}", headers=headers).status_code,
            ]

        answer = http.post("/v1/responses", json={"input": "Hi"}, headers={"authorization": "Bearer mine"}).json()
        assert statuses("other") == [404, 404, 400, 400, 404]
        assert statuses("mine") == [200, 200, 200, 200, 200]


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=msg_x", "after")]
)
def test_a_page_of_items_has_bounds(served: Served, query: str, param: str) -> None:
    answer = served.ask("Hello")
    url = f"{served.client.base_url}responses/{answer.id}"
    refused = httpx.get(f"{url}/input_items?{query}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert httpx.get(f"{url}?stream=true").status_code == 400
    assert httpx.get(f"{url}/input_items?limit=1&order=asc").status_code == 200, "control"


def kept(response_id: str, previous_id: str = "", num_bytes: int = 0) -> KeptResponse:
    items = [(f"msg_{response_id}", b"x" * num_bytes)]
    return KeptResponse(response_id, b"", items, [(f"out_{response_id}", b"y")], previous_id)


def test_the_number_of_responses_is_bounded_and_conversations_that_are_used_stay() -> None:
    store = ResponseStore(3, 10**6)
    for response_id, previous_id in (("a", ""), ("b", "a"), ("c", "")):
        store.keep("", kept(response_id, previous_id))
    assert [each.id for each in store.conversation("", "b") or []] == ["a", "b"]
    store.keep("", kept("d", "b"))
    assert store.find("", "c") is None, "not used since"
    assert [each.id for each in store.conversation("", "d") or []] == ["a", "b", "d"]
    assert store.find_item("", "out_c") is None
    assert store.find_item("", "out_a") == b"y"


def test_their_bytes_are_bounded() -> None:
    store = ResponseStore(100, 10_000)
    for response_id in "abcd":
        store.keep("", kept(response_id, num_bytes=2000))
    assert [store.find("", each) is not None for each in "abcd"] == [False, True, True, True]
    store.keep("", kept("e", num_bytes=20_000))
    assert store.find("", "e") is None
    assert store.find("", "b") is not None, "one that is too large makes no other leave"


def test_an_item_of_several_responses_is_found_as_long_as_the_last_is_here() -> None:
    store = ResponseStore(2, 10**6)
    for response_id in "abc":
        store.keep("", KeptResponse(response_id, b"", [("msg", response_id.encode())], []))
    assert store.find_item("", "msg") == b"c"
    assert store.find_item("other", "msg") is None
    assert store.forget("", "c")
    assert not store.forget("", "c")
    assert store.find_item("", "msg") is None


def test_a_long_conversation_counts_as_a_long_request() -> None:
    store = ResponseStore(10, 10**6)
    store.keep("", kept("a", num_bytes=1000))
    store.keep("", kept("b", "a", num_bytes=500))
    assert 1500 < store.num_conversation_bytes("", "b") < 5000
    assert store.num_conversation_bytes("", "x") == 0
