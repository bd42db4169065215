"""The demo model launched, and what its users ask of it: quotations, conversations, stories."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from amounts import amount

from histrio.testing.launched import LaunchedServer

__all__ = ["Load", "at_once", "conversations", "launched", "one_by_one", "quotes", "stories", "without_drafts"]

Load = Callable[..., list[Any]]
"""The fixture `stream_all`."""


def launched(folder: Path, **engine: str) -> LaunchedServer:
    """The demo model on torch in float32, with these keys of `[engine]`, `_` for `-`, and their values in TOML."""
    arguments = ["--model", "demo", "--backend", "torch", "--dtype", "float32", "--log-level", "warning"]
    for key, value in engine.items():
        arguments += ["--set", f"engine.{key.replace('_', '-')}={value}"]
    return LaunchedServer(*arguments, log=folder / "log.txt")


def quotes(num_requests: int, num_tokens: int | None = None, num_words: int = 60) -> list[dict[str, Any]]:
    """Passages of `num_words` to half as many more to be repeated; with `num_tokens` the answer goes on for so long."""
    from demo.texts import make_passage

    rng = random.Random(100_000)
    length = {"max_tokens": num_tokens, "ignore_eos": True} if num_tokens else {"max_tokens": amount(400, once=8)}
    passages = [make_passage(rng, rng.randint(num_words, 3 * num_words // 2)) for _ in range(num_requests)]
    return [_chat(f"Repeat the following passage word for word:\n\n{passage}") | length for passage in passages]


def conversations(num_requests: int) -> list[dict[str, Any]]:
    """Questions like those the model was trained on, answered to their end."""
    from demo.facts import summary_exchange
    from demo.texts import counting_exchange, list_exchange, story_exchange

    rng = random.Random(200_000)
    kinds = (story_exchange, counting_exchange, list_exchange, summary_exchange)
    questions = [kinds[index % len(kinds)](rng)[0].content for index in range(num_requests)]
    return [_chat(question) | {"max_tokens": amount(90, once=8)} for question in questions]


def stories(num_requests: int) -> list[dict[str, Any]]:
    """Text without repetition: drawn from a flattened distribution, other numbers for each request."""
    fields = {"max_tokens": amount(96, once=8), "ignore_eos": True, "temperature": 1.5, "top_p": 1.0}
    return [_chat(f"Tell me story number {index}.") | fields | {"seed": index} for index in range(num_requests)]


def without_drafts(bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same requests, without drafts. One server answers both: two that were launched alike differ by some
    percent."""
    return [body | {"max_speculation": 0} for body in bodies]


def one_by_one(server: LaunchedServer, stream_all: Load, bodies: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds per token of each request, from sending it to its end."""
    return [stream.seconds / stream.num_tokens for body in bodies for stream in stream_all(server, [body])]


def at_once(server: LaunchedServer, stream_all: Load, bodies: Sequence[dict[str, Any]], num_users: int) -> list[float]:
    """Seconds per token while so many users are served, each of whom asks again as soon as it was answered."""
    begun = time.perf_counter()
    streams = stream_all(server, bodies, num_users=num_users)
    end = max(stream.begun for stream in streams)  # from then on there are fewer
    return [(end - begun) / sum(stream.num_tokens_until(end) for stream in streams)]


def _chat(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}
