"""Hooks that watch, in one file: tokens by API key on /metrics, and how often actors failed.

They run on a thread of their own, so that writing to a file or a database here would keep no stream waiting.
"""

from collections import Counter

from histrio.contracts.hooks import hookimpl
from histrio.contracts.observed import FinishedRequest, IntervalStats

tokens: Counter[str] = Counter()
"""By key: of prompts and answers."""
failures: Counter[str] = Counter()
"""By actor."""


@hookimpl
def on_request_finished(record: FinishedRequest) -> None:
    """Called once for each choice of each request."""
    tokens[record.key or "none"] += record.num_prompt_tokens - record.num_cached_tokens + record.num_tokens


@hookimpl
def on_actor_failed(actor: str) -> None:
    """Takes the actor's name alone, of what is told."""
    failures[actor] += 1


@hookimpl
def on_interval(stats: IntervalStats) -> dict[str, float]:
    """These numbers stand on /metrics, as `histrio_plugin_tokens_total{plugin="usage_hooks.py",key="…"}`."""
    numbers: dict[str, float] = {f'tokens_total{{key="{key}"}}': count for key, count in tokens.items()}
    return numbers | {f'failures_total{{actor="{actor}"}}': count for actor, count in failures.items()}
