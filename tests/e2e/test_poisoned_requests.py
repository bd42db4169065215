"""Requests that break what works on them end alone: the others read the same tokens, and the service stands.

`HISTRIO_POISON=10` sends ten requests of each of twelve kinds, those included that take a process seconds to replace.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model

NUM_ROUNDS = int(os.environ.get("HISTRIO_POISON", "0"))
SHORT = ["open", "apply", "observe", "step", "exit", "grammar", "drafter"]
ALL = [*SHORT, "kill", "hang", "memory", "step-exit", "step-kill"]
CODES = {"open": "500 plugin_failed", "grammar": "500 plugin_failed", "drafter": ""}
MOST_FAILURES = {"open": 0, "grammar": 0, "drafter": 0, "step-kill": 3}
"""Failures of the replica that one request may cost, if not two: none where it ends by itself, three where a signal
from outside may have done it."""
STEPS = {
    "step": [7, 251, 251, 251],
    "step-exit": [7, 253, 253, 253],
    "step-kill": [7, 254, 254, 254],
    "drafter": [7, 252],
}
"""Prompts that break what takes no fields of requests."""
NUM_LANES, NUM_TOKENS = 16, 40

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120 + 120 * NUM_ROUNDS)]


def fields(kind: str, number: int) -> dict[str, Any]:
    """A poisoned request: some break at once, others in the middle of their answer."""
    prompt = STEPS.get(kind, [7, number % 200])
    extra: dict[str, Any] = {"ignore_eos": True}
    if kind == "grammar":
        extra = {"response_format": {"type": "poisoned", "poisoned": "x"}}
    elif kind not in STEPS:
        extra |= {"poison": kind, "poison_at": 0 if number % 2 else 11}
    return {"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "extra_body": extra}


class Run:
    """Lanes of innocent requests, and poisoned ones beside them."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.client = client
        self.texts: dict[tuple[int, int], str] = {}
        self.ends: list[tuple[str, str, str]] = []
        """Kind, code and message of each poisoned request."""
        self.is_over = False

    async def text(self, lane: int, turn: int) -> str:
        prompt = [1 + lane, 1 + turn % 200, 3]
        stream = await self.client.completions.create(
            model="toy",
            prompt=prompt,
            max_tokens=NUM_TOKENS,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        return "".join([choice.text async for chunk in stream for choice in chunk.choices])

    async def lane(self, lane: int) -> None:
        """One innocent request after the other, until the poisoned ones have ended."""
        turn = 0
        while turn < 2 or not self.is_over:
            self.texts[lane, turn] = await self.text(lane, turn)
            turn += 1

    async def poison(self, kind: str, number: int) -> None:
        code, message = "", ""
        try:
            await self.client.completions.create(model="toy", **fields(kind, number))
        except openai.APIStatusError as error:
            code, message = f"{error.status_code} {error.code}", error.message
        self.ends.append((kind, code, message))

    async def all_poison(self, kinds: list[str], num_rounds: int) -> None:
        for number in range(num_rounds):
            async with anyio.create_task_group() as tasks:
                for kind in kinds:
                    tasks.start_soon(self.poison, kind, number)
        self.is_over = True


async def play(server: LaunchedServer, kinds: list[str], num_rounds: int) -> tuple[Run, dict[tuple[int, int], str]]:
    """What came of it, and what the innocent read when they ask again and are alone."""
    async with openai.AsyncOpenAI(
        base_url=f"{server.base_url}/v1", api_key="none", max_retries=0, timeout=600
    ) as client:
        run = Run(client)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.all_poison, kinds, num_rounds)
            for lane in range(NUM_LANES):
                tasks.start_soon(run.lane, lane)
        return run, {(lane, turn): await run.text(lane, turn) for lane, turn in run.texts}


def test_only_poisoned_requests_end_and_the_service_stands(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy")
    kinds, num_rounds = (ALL, NUM_ROUNDS) if NUM_ROUNDS else (SHORT, 1)
    settings = {
        "engine.drafter": "poisoned-drafts",
        "engine.adaptive": "false",
        "stage.options": "{step-s = 0.002}",
        "runtime.hang-timeout-s": 2,
        "runtime.first-step-timeout-s": 4,
    }
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    arguments += ["--plugin", str(Path(__file__).parent / "foreign" / "poison.py"), "--backend", "poisoned-toy"]
    with LaunchedServer("--model", str(model), *arguments, log=tmp_path / "log.txt") as server:
        run, alone = anyio.run(play, server, kinds, num_rounds)
        assert server.health() == 200, "the service stands"
        log = server.log.read_text()
    assert run.texts == alone
    assert len(set(alone.values())) > NUM_LANES, "a control: others read other texts"
    assert Counter((kind, code) for kind, code, _ in run.ends) == Counter(
        {(kind, CODES.get(kind, "500 request_broke_engine")): num_rounds for kind in kinds}
    )
    assert [message for _, _, message in run.ends if "poisoned:" in message] == [], "no exception text"
    ended_inside = [message for kind, _, message in run.ends if kind in ("exit", "kill", "hang")]
    assert all("in sampler 'poison' (" in message for message in ended_inside), ended_inside
    num_failures = log.count("replica 0 is down")
    print(f"{len(run.ends)} poisoned, {len(alone)} innocent requests, {num_failures} failures")
    assert 0 < num_failures <= num_rounds * sum(MOST_FAILURES.get(kind, 2) for kind in kinds)
    assert "sampler 'poison'" in log
    assert "'poisoned-drafts'" in log
