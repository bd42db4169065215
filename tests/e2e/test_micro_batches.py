"""Two stages in two processes compute side by side when two micro-batches are in flight.

The toy backend waits for each token as long as a device would compute, so the ratio says what the runtime makes of it.
"""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import anyio
import openai
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model
from histrio.testing.wait import eventually

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]

NUM_REQUESTS, NUM_TOKENS = 8, 40
TOKEN_S = 0.01
QUIET_S = 1.2
"""Stages tell their numbers once a second, and a moment after their last step."""
NUM_TRIES = 5
"""Something else may keep the cores busy for a while."""


def busy_s(server: LaunchedServer) -> list[float]:
    """Seconds each stage has spent in its steps."""
    with urllib.request.urlopen(f"{server.base_url}/metrics", timeout=30.0) as reply:
        lines = reply.read().decode().splitlines()
    found = [line.split() for line in lines if "_busy_seconds_total" in line and not line.startswith("#")]
    return [float(value) for _name, value in sorted(found)]


def final_busy_s(server: LaunchedServer) -> list[float]:
    """The same once no step runs: the numbers stay as they are for longer than stages take to tell them."""
    last, since = busy_s(server), time.monotonic()

    def is_final() -> bool:
        nonlocal last, since
        now = busy_s(server)
        if now != last:
            last, since = now, time.monotonic()
        return len(now) == 2 and min(now) > 0 and time.monotonic() - since > QUIET_S

    eventually(is_final)
    return last


async def generate(server: LaunchedServer) -> list[str]:
    texts: dict[int, str] = {}
    async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:

        async def one(index: int) -> None:
            reply = await client.completions.create(
                model="toy",
                prompt=[index + 1, 2],
                max_tokens=NUM_TOKENS,
                temperature=0,
                extra_body={"ignore_eos": True},
            )
            texts[index] = reply.choices[0].text

        async with anyio.create_task_group() as tasks:
            for index in range(NUM_REQUESTS):
                tasks.start_soon(one, index)
    return [texts[index] for index in range(NUM_REQUESTS)]


def measure(model: Path, folder: Path, num_micro_batches: int) -> tuple[float, list[float], list[str]]:
    """Seconds that all requests take, the share of it each stage was busy, and what was said."""
    arguments = ["--model", str(model), "--backend", "toy", "--stages", "2", "--backend-option", f"token-s={TOKEN_S}"]
    arguments += ["--set", f"engine.micro-batch-ratio={num_micro_batches}"]
    with LaunchedServer(*arguments, log=folder / f"log{num_micro_batches}.txt") as server:
        begun = time.perf_counter()
        texts = anyio.run(generate, server)
        took = time.perf_counter() - begun
        return took, [busy / took for busy in final_busy_s(server)], texts


@pytest.mark.alone
def test_two_micro_batches_keep_two_stages_busy(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy")
    one_s, one_share, one_texts = measure(model, tmp_path, 1)
    for _ in range(NUM_TRIES):
        two_s, two_share, two_texts = measure(model, tmp_path, 2)
        assert two_texts == one_texts
        if min(two_share) >= 0.9 and one_s / two_s >= 1.7:
            break
    shares = f"busy: {one_share} with one, {two_share} with two; {one_s / two_s:.2f} times as fast"
    assert one_s / two_s >= 1.7, shares
    assert min(two_share) >= 0.9, shares
    assert max(one_share) < 0.6, f"a control, {shares}"
