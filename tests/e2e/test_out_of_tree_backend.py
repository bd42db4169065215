"""A backend in one foreign file, installed beside histrio, serves a model that transformers knows too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]

SOURCE = Path(__file__).parent / "foreign" / "numpy_llama.py"
NUM_LAYERS, NUM_TOKENS = 4, 24
PROMPTS = [[7, 8, 9], [100, 3, 50, 60, 70, 80, 90, 11, 12, 13, 14], [42] * 5]
TOPOLOGY = """
[model]
path = "{model}"

[engine]
chunked-prefill-size = 4

[[stage]]
layers = "0:{cut}"
backend = "{first}"

[[stage]]
layers = "{cut}:4"
backend = "{second}"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with the file and its metadata, as pip would leave them."""
    site = tmp_path_factory.mktemp("site")
    (site / "numpy_llama.py").write_text(SOURCE.read_text())
    info = site / "numpy_llama-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-llama\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[histrio]\nnumpy_llama = numpy_llama\n")
    return site


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights large enough to make its greedy streams wander, and a byte-level tokenizer."""
    folder = write_toy_model(tmp_path_factory.mktemp("models") / "llama")
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        eos_token_id=257,
    )
    torch.manual_seed(4)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path) -> list[str]:
    """What `generate` of transformers says, as text of the byte-level tokenizer."""
    from tokenizers import Tokenizer

    llama: Any = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = llama.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=-1
        )
        texts.append(tokenizer.decode(output[0, len(prompt) :].tolist()))
    return texts


@pytest.fixture(
    scope="module",
    params=[
        "numpy-llama alone",
        "numpy-llama torch",
        pytest.param("torch numpy-llama", marks=pytest.mark.thorough),
    ],
)
def server(
    model: Path, site: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[LaunchedServer]:
    folder = tmp_path_factory.mktemp("run")
    first, second = request.param.split()
    file = folder / "topology.toml"
    arguments = [str(file)]
    file.write_text(TOPOLOGY.format(model=model, cut=1, first=first, second=second))
    if second == "alone":
        arguments = ["--model", str(model), "--backend", first]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    with LaunchedServer(*arguments, log=folder / "log.txt", env={"PYTHONPATH": path}) as launched:
        yield launched


def test_it_serves_the_tokens_of_transformers_alone_and_beside_torch(
    server: LaunchedServer, expected: list[str]
) -> None:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        reply = client.completions.create(
            model="llama", prompt=PROMPTS, max_tokens=NUM_TOKENS, temperature=0, extra_body={"ignore_eos": True}
        )
    texts = [choice.text for choice in sorted(reply.choices, key=lambda choice: choice.index)]
    assert texts == expected
    assert len(set(expected)) == len(PROMPTS), "a control: other prompts give other texts"


def test_without_its_distribution_it_is_unknown(model: Path) -> None:
    command = [sys.executable, "-m", "histrio.cli", "--model", str(model), "--backend", "numpy-llama", "--check"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "there is no backend 'numpy-llama'" in refused.stderr
