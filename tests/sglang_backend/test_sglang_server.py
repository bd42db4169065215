"""The demo model behind the endpoint: its first and last layers on SGLang in an environment of its own, others here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from histrio.config.locate import locate_model
from histrio.testing.launched import LaunchedServer

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

QUESTION = "Count from 1 to 20."
NUM_TOKENS = 24
TOPOLOGY = """
[model]
path = "demo"

[engine]
num-cache-blocks = 256

[[stage]]
layers = "0:2"
backend = "sglang"
python = "{python}"
device = "cpu"

[[stage]]
layers = "2:4"

[[stage]]
layers = "4:6"
backend = "sglang"
python = "{python}"
device = "cpu"
"""


def test_layers_on_sglang_and_on_torch_answer_as_transformers_does(sglang_python: str, tmp_path: Path) -> None:
    topology = tmp_path / "topology.toml"
    topology.write_text(TOPOLOGY.format(python=sglang_python), encoding="utf-8")
    with LaunchedServer(str(topology), log=tmp_path / "log.txt") as server:
        client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0)
        answers = [complete(client, ids) for ids in prompts()]
        client.close()
    expected = [continuation(ids) for ids in prompts()]
    assert answers == expected
    assert answers[0] != answers[1], "a control: another prompt gives another text"


def prompts() -> list[list[int]]:
    """One shorter and one longer than a page."""
    tokenizer = Tokenizer.from_file(str(demo() / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in (QUESTION, f"{QUESTION} And back again, from 20 down to 1. " * 3)]


def complete(client: openai.OpenAI, ids: list[int]) -> str:
    answer = client.completions.create(
        model="demo", prompt=ids, max_tokens=NUM_TOKENS, temperature=0.0, extra_body={"ignore_eos": True}
    )
    return answer.choices[0].text


def continuation(ids: list[int]) -> str:
    """What transformers says, in the float32 in which small models run on a CPU."""
    model: Any = AutoModelForCausalLM.from_pretrained(demo(), dtype=torch.float32)
    model.generation_config.eos_token_id = None
    prompt = torch.tensor([ids])
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NUM_TOKENS, do_sample=False)
    text: str = Tokenizer.from_file(str(demo() / "tokenizer.json")).decode(output[0, len(ids) :].tolist())
    return text


def demo() -> Path:
    return locate_model("demo")
