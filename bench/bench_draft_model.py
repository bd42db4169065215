"""What a draft model gains: `demo` with `demo-draft` before it, as a multiple of the same without drafts, in turns.

Conversations are what the small model says as well; passages to be repeated are what it is too small for. With *fixed*
length it drafts four tokens whatever they are worth. With *adaptive* it drafts what pays, and nothing may be lost.
All requests are greedy, so both ways make the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from amounts import amount, is_long, is_once
from demo_load import Load, at_once, conversations, launched, one_by_one, quotes, without_drafts

from histrio.testing.launched import LaunchedServer
from histrio.testing.wait import eventually

DRAFT_MODEL = {"drafter": "draft-model", "drafter_options": '{model = "demo-draft"}'}
WAYS: dict[str, dict[str, str]] = {
    "fixed": {**DRAFT_MODEL, "adaptive": "false", "speculation_length": "4"},
    "adaptive": DRAFT_MODEL,
}
TASKS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "conversations": conversations,
    "quotes": lambda num_requests: quotes(num_requests, num_words=30),
}
NUM_REQUESTS = {1: amount(3, once=1), 8: amount(12, once=9), 32: amount(40, once=33)}
"""Users → requests of one round."""
ROUNDS = {"fixed": 3, "adaptive": amount(3, once=1, long=10)}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LaunchedServer]]:
    """One for each way; the one that is not asked does nothing."""
    with ExitStack() as closing:
        yield {
            way: closing.enter_context(launched(tmp_path_factory.mktemp(way), **settings))
            for way, settings in WAYS.items()
        }


@pytest.mark.parametrize("num_users", NUM_REQUESTS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("way", ["fixed", "adaptive"])
def test_a_draft_model(
    servers: dict[str, LaunchedServer],
    stream_all: Load,
    in_turns: Callable[..., Any],
    note: Callable[[str], None],
    counter: Callable[[LaunchedServer, str], int],
    way: str,
    task: str,
    num_users: int,
) -> None:
    if not (is_long() or is_once()) and (way == "fixed" or num_users == 8):
        pytest.skip("only with --long")

    bodies = TASKS[task](NUM_REQUESTS[num_users])
    names = ("generated_tokens_total", "drafted_tokens_total", "accepted_tokens_total")
    before = [counter(servers[way], name) for name in names]

    def measure(bodies: list[dict[str, Any]]) -> list[float]:
        if num_users == 1:
            return one_by_one(servers[way], stream_all, bodies)
        return at_once(servers[way], stream_all, bodies, num_users)

    compared = in_turns(lambda: measure(bodies), lambda: measure(without_drafts(bodies)), ROUNDS[way])

    # The engine tells its totals a little later than its last tokens.
    eventually(lambda: counter(servers[way], names[0]) > before[0] and not counter(servers[way], "running_sequences"))
    generated, drafted, accepted = (counter(servers[way], name) - old for name, old in zip(names, before, strict=True))
    # Half of the tokens were generated without.
    note(f"{2 * drafted / generated:.2f} drafts per token, {accepted / max(drafted, 1):.2f} of them came true")
    if way == "adaptive" and is_long():
        compared.assert_least(ratio_of_pairs=0.97)
