"""What a shared prefix saves: 32 requests that begin with the same 1,024 tokens, through a launched server's endpoint.

Times to the first token, as a client sees them. *Cold*: kv knows nothing, because it was reset or because the cache is
off. *Warm*: the prefix was computed before.
"""

from __future__ import annotations

import random
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from amounts import amount

from histrio.testing.launched import LaunchedServer
from histrio.testing.wait import eventually

NUM_REQUESTS = amount(32, once=4)
NUM_PREFIX_TOKENS, NUM_OWN_TOKENS, NUM_NEW_TOKENS = amount(1024, once=128), 12, 4
BLOCK_SIZE = 16

Load = Callable[..., list[Any]]


def prompts(seed: int = 0) -> list[dict[str, Any]]:
    """Requests with one beginning and ends of their own."""
    rng = random.Random(seed)
    prefix = [rng.randrange(300, 2000) for _ in range(NUM_PREFIX_TOKENS)]
    return [
        {
            "prompt": [*prefix, *(rng.randrange(300, 2000) for _ in range(NUM_OWN_TOKENS))],
            "max_tokens": NUM_NEW_TOKENS,
            "ignore_eos": True,
        }
        for _ in range(NUM_REQUESTS)
    ]


def launched(folder: Any, *settings: str) -> LaunchedServer:
    """The demo model in float32, without drafts: they would be counted as scheduled tokens."""
    options = ["engine.drafter=off", f"engine.kv-block-size={BLOCK_SIZE}", *settings]
    arguments = ["--model", "demo", "--dtype", "float32", "--log-level", "warning"]
    return LaunchedServer(*arguments, *(part for each in options for part in ("--set", each)), log=folder / "log.txt")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    with launched(tmp_path_factory.mktemp("cached")) as running:
        yield running


@pytest.fixture(scope="module")
def uncached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    with launched(tmp_path_factory.mktemp("uncached"), "engine.prefix-cache=false") as running:
        yield running


def reset(server: LaunchedServer) -> None:
    reset = urllib.request.Request(f"{server.base_url}/v1/cache/reset", method="POST")
    with urllib.request.urlopen(reset, timeout=5.0) as reply:
        assert reply.status == 200


def first_tokens(streams: Sequence[Any]) -> list[float]:
    return [stream.first_token_s for stream in streams]


def test_one_after_another(server: LaunchedServer, stream_all: Load, in_turns: Callable[..., Any]) -> None:
    def warm() -> list[float]:
        return [first_tokens(stream_all(server, [body]))[0] for body in prompts()]

    def cold() -> list[float]:
        seconds = []
        for body in prompts():
            reset(server)
            seconds += first_tokens(stream_all(server, [body]))
        return seconds

    compared = in_turns(warm, cold, 3)

    compared.assert_least(ratio=5, p95_ratio=5)


def test_all_at_once(
    server: LaunchedServer, uncached: LaunchedServer, stream_all: Load, in_turns: Callable[..., Any]
) -> None:
    compared = in_turns(
        lambda: first_tokens(stream_all(server, prompts())),
        lambda: first_tokens(stream_all(uncached, prompts())),
        3,
    )

    compared.assert_least(ratio=5, p95_ratio=5)


def test_a_cold_burst_computes_the_prefix_once(
    server: LaunchedServer,
    uncached: LaunchedServer,
    stream_all: Load,
    counter: Callable[[LaunchedServer, str], int],
    in_turns: Callable[..., Any],
) -> None:
    """How much sooner the first tokens of a burst come than without a cache, when the prefix is new."""

    def cold() -> list[float]:
        reset(server)
        return first_tokens(stream_all(server, prompts()))

    in_turns(cold, lambda: first_tokens(stream_all(uncached, prompts())), 3)

    # The last token of a request is drawn and not computed.
    own = NUM_REQUESTS * (NUM_OWN_TOKENS + NUM_NEW_TOKENS - 1)
    expected = {server: NUM_PREFIX_TOKENS + own, uncached: NUM_REQUESTS * NUM_PREFIX_TOKENS + own}
    for each, num_tokens in expected.items():
        _wait_idle(each, counter)
        before = counter(each, "scheduled_tokens_total")
        reset(each)
        stream_all(each, prompts())
        # Answers may be out before their totals: these are told once a second, and once more when work has run out.
        eventually(lambda: counter(each, "scheduled_tokens_total") - before >= num_tokens)  # noqa: B023 - called at once
        _wait_idle(each, counter)
        assert counter(each, "scheduled_tokens_total") - before == num_tokens


def _wait_idle(server: LaunchedServer, counter: Callable[[LaunchedServer, str], int]) -> None:
    eventually(lambda: counter(server, "running_sequences") == 0)
