"""The engine's process is killed at random steps while prefixes are shared, tokens drafted and choices forked:
what every client reads is what it reads undisturbed.

`HISTRIO_COMBINATIONS=20` kills in as many runs.
"""

from __future__ import annotations

import random
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import openai
import psutil
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model
from histrio.testing.wait import eventually
from tests.matrix.covering import NUM_RANDOM

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120 + 30 * NUM_RANDOM)]  # processes are started and killed

NUM_REQUESTS, NUM_TOKENS = 10, 30
PREFIX = [(7 * index + 3) % 250 for index in range(40)]
SETTINGS = ["engine.kv-block-size=4", "engine.num-cache-blocks=120", "engine.drafter=ngram", "engine.max-batch-size=12"]
Texts = dict[tuple[int, int], str]
"""What came, by request and choice."""


def fields(index: int) -> dict[str, Any]:
    """Three in four requests go on in few tokens, where n-grams come true."""
    few = {"allowed_token_ids": [65, 66], "repetition_penalty": 1.05} if index % 4 else {}
    return {
        "prompt": [*PREFIX[: 8 * (index % 6)], index, 5],
        "n": 1 + index % 3,
        "seed": index,
        "temperature": [0.0, 0.9][index % 2],
        "extra_body": {"ignore_eos": True, "top_k": 20, **few},
    }


async def stream_all(server: LaunchedServer, on_text: Callable[[str], None]) -> Texts:
    """All requests side by side; `on_text` hears of every piece of text."""
    texts: Texts = {}
    async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:

        async def one(index: int) -> None:
            stream = await client.completions.create(model="toy", max_tokens=NUM_TOKENS, stream=True, **fields(index))
            async for chunk in stream:
                for choice in chunk.choices:
                    texts[index, choice.index] = texts.get((index, choice.index), "") + choice.text
                    on_text(choice.text)

        async with anyio.create_task_group() as tasks:
            for index in range(NUM_REQUESTS):
                tasks.start_soon(one, index)
    return texts


def engine(server: LaunchedServer) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    (child,) = [each for each in children if each.name().startswith("rt:engine")]
    return child


def total(server: LaunchedServer, name: str) -> float:
    """A counter of /metrics."""
    with urllib.request.urlopen(f"{server.base_url}/metrics", timeout=30.0) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if name in line and not line.startswith("#"))


def launch(model: Path, log: Path) -> LaunchedServer:
    arguments = [part for setting in SETTINGS for part in ("--set", setting)]
    slow = ["--set", "stage.options={step-s = 0.004}"]
    return LaunchedServer("--model", str(model), "--backend", "toy", *arguments, *slow, log=log)


def test_a_killed_engine_changes_no_text(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy")
    for seed in range(max(1, NUM_RANDOM)):
        with launch(model, tmp_path / f"log{seed}.txt") as server:
            undisturbed = anyio.run(stream_all, server, lambda text: None)
            eventually(lambda: total(server, "forked_sequences_total") > 0)
            assert total(server, "accepted_tokens_total") > 0
            assert "process engine.2" not in server.log.read_text()
            assert len(set(undisturbed.values())) > NUM_REQUESTS, "a control: others read other texts"

            assert anyio.run(stream_all, server, _killer(server, undisturbed, random.Random(seed))) == undisturbed
            assert "process engine.3 is up" in server.log.read_text(), "a control: it did die, twice"


def _killer(server: LaunchedServer, undisturbed: Texts, rng: random.Random) -> Callable[[str], None]:
    """Kills the engine twice, once so much text has come."""
    num_chars = sum(map(len, undisturbed.values()))
    kill_at = [rng.uniform(0.02, 0.4) * num_chars, rng.uniform(0.6, 0.9) * num_chars]
    num_seen = 0

    def on_text(text: str) -> None:
        nonlocal num_seen
        num_seen += len(text)
        if kill_at and num_seen >= kill_at[0]:
            del kill_at[0]
            engine(server).kill()

    return on_text
