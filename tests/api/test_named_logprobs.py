"""`logprob_token_ids`: the log probabilities of named tokens beside each token of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from histrio.testing.harness import serving, serving_engine
from histrio.testing.models import VOCAB_SIZE
from histrio.testing.toy import ToyFactory, toy_logits, write_toy_model
from histrio.testing.toy_engine import ToyEngineFactory
from histrio_api.testing import endpoint_over
from histrio_api.text.tokenizer import Tokenizer
from histrio_samplers.temperature import Temperature

pytestmark = pytest.mark.anyio

NAMED = [70, 5, 70, 9]
HI: Any = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": "toy", "messages": HI, "max_tokens": 3, "temperature": 0, "logprobs": True}
TEXT: dict[str, Any] = {"model": "toy", "prompt": "ab", "max_tokens": 2, "temperature": 0, "logprobs": 1}


def expected_of(ids: list[int]) -> dict[int, float]:
    logits = toy_logits(ids, num_layers=2, vocab_size=VOCAB_SIZE).astype(np.float64)
    values = logits - logits.max()
    values -= np.log(np.exp(values).sum())
    return {token_id: float(values[token_id]) for token_id in NAMED}


async def test_named_tokens_are_told_of_in_chats_and_completions(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    tokenizer = Tokenizer.load(folder)
    async with (
        serving(folder, ToyFactory(), samplers=[Temperature]) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        fields = {"logprob_token_ids": NAMED, "top_logprobs": 2}
        answer = (await http.post("/v1/chat/completions", json=CHAT | fields)).json()
        ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", add_special=False)
        by_bytes = {bytes(tokenizer.spell(token_id)[1]): token_id for token_id in range(VOCAB_SIZE)}
        for entry in answer["choices"][0]["logprobs"]["content"]:
            found = {by_bytes[bytes(each["bytes"])]: each["logprob"] for each in entry["top_logprobs"]}
            assert found == pytest.approx(expected_of(ids), abs=1e-3)
            assert list(found.values()) == sorted(found.values(), reverse=True)
            ids.append(by_bytes[bytes(entry["bytes"])])
        assert len(ids) > 3

        echoed = await http.post("/v1/completions", json=TEXT | {"logprob_token_ids": NAMED, "echo": True})
        columns = echoed.json()["choices"][0]
        prompt_top, *others = columns["logprobs"]["top_logprobs"][1:]
        assert len(prompt_top) <= 2, "of a prompt the likeliest are told"
        names = {tokenizer.spell(token_id)[0] for token_id in NAMED}
        assert all(names <= each.keys() for each in others)
        assert not names & prompt_top.keys(), "control"

        for body, param in (
            (CHAT | {"logprobs": False, "logprob_token_ids": [5]}, "logprob_token_ids"),
            (CHAT | {"logprob_token_ids": [VOCAB_SIZE]}, "logprob_token_ids"),
            (CHAT | {"logprob_token_ids": [5] * 129}, "logprob_token_ids"),
            (CHAT | {"logprob_token_ids": [-1]}, "logprob_token_ids[0]"),
            (TEXT | {"logprob_token_ids": [5], "max_tokens": 0, "echo": True}, "logprob_token_ids"),
        ):
            path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
            refused = await http.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        empty = (
            await http.post("/v1/chat/completions", json=CHAT | {"logprob_token_ids": [], "top_logprobs": 2})
        ).json()
        assert [len(each["top_logprobs"]) for each in empty["choices"][0]["logprobs"]["content"]] == [2] * 3


async def test_an_engine_that_cannot_tell_of_named_tokens_refuses_them_by_name(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    async with (
        serving_engine(folder, ToyEngineFactory()) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        refused = await http.post("/v1/chat/completions", json=CHAT | {"logprob_token_ids": [5]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprob_token_ids")
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200, "a control"
