"""How stages share the cores of a machine: with each other, and with other programs. In the shape of Qwen3-0.6B, bf16.

*Two stages* of one machine against one stage that has all layers, both launched, for 1, 4 and 16 users.

*Beside a busy program*, which keeps one core busy, against alone: steps of the native library in this process. The
program may have half of one core, and throughput may fall by so much.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from amounts import VOCAB_SIZE, amount

from histrio.kit.cores import num_cores
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio.testing.launched import LaunchedServer
from histrio_cpu.factory import CpuFactory

NUM_TOKENS = amount(32, once=4)
LEAST_OF_ONE_STAGE = 0.85
NEARLY = 0.9
"""Of the share that is left: cores change hands, and caches with them."""


@pytest.fixture(scope="module", params=["cpu", "torch"])
def servers(
    request: pytest.FixtureRequest, qwen3_06b: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[LaunchedServer]]:
    """Of one stage, and of two. The one that is not asked sleeps."""
    folder = tmp_path_factory.mktemp("stages")
    with ExitStack() as closing:
        yield [
            closing.enter_context(
                LaunchedServer(
                    *("--model", str(qwen3_06b), "--dtype", "bfloat16", "--drafter", "off"),
                    *("--backend", request.param, "--stages", str(num_stages), "--log-level", "warning"),
                    log=folder / f"log{num_stages}",
                )
            )
            for num_stages in (1, 2)
        ]


@pytest.mark.parametrize("num_users", [1, 4, 16])
def test_two_stages_of_one_machine(
    servers: list[LaunchedServer],
    stream_all: Callable[..., list[Any]],
    in_turns: Callable[..., Any],
    num_users: int,
) -> None:
    fields = {"max_tokens": NUM_TOKENS, "ignore_eos": True}
    bodies = [{"prompt": [user + 1, *range(100, 116)], **fields} for user in range(num_users)]

    def seconds_per_token(server: LaunchedServer) -> list[float]:
        begun = time.perf_counter()
        streams = stream_all(server, bodies)
        return [(time.perf_counter() - begun) / sum(stream.num_tokens for stream in streams)]

    one, two = servers
    compared = in_turns(lambda: seconds_per_token(two), lambda: seconds_per_token(one), amount(5, once=1, long=15))
    compared.assert_least(ratio_of_pairs=LEAST_OF_ONE_STAGE)


@contextmanager
def a_busy_program() -> Iterator[None]:
    program = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.skipif(num_cores() == 1, reason="threads share a core")
@pytest.mark.parametrize("num_rows", [1, 16])
def test_steps_beside_a_busy_program(qwen3_06b: Path, in_turns: Callable[..., Any], num_rows: int) -> None:
    options = HarnessOptions(kv_block_size=16, max_sequence_length=1024, dtype="bfloat16")
    chain = StageChain(CpuFactory(), qwen3_06b, (), options)
    chain.step([ChainRow(slot, [slot + 1, 2, 3]) for slot in range(num_rows)])

    def seconds_per_step() -> Sequence[float]:
        begun = time.perf_counter()
        for token in range(amount(16, once=1)):
            chain.step([ChainRow(slot, [(100 * slot + token) % VOCAB_SIZE]) for slot in range(num_rows)])
        return [(time.perf_counter() - begun) / amount(16, once=1)]

    def beside() -> Sequence[float]:
        with a_busy_program():
            return seconds_per_step()

    compared = in_turns(beside, seconds_per_step, amount(8, once=1, long=25))
    chain.close()
    compared.assert_least(ratio_of_pairs=NEARLY * (num_cores() - 0.5) / num_cores())
