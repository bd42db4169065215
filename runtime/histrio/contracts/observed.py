"""What the hooks that watch are told: requests that have ended, and the numbers of an interval."""

from __future__ import annotations

import msgspec

from histrio.messages import RequestState

__all__ = ["FinishedRequest", "IntervalStats"]


class FinishedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of an accepted request, at its end. Nothing of what was asked or answered is in it."""

    request: int
    """Its number in this front, unique as long as the service runs."""
    choice: int = 0
    """0 for the first of the choices of one prompt."""
    id: str = ""
    """What its edge calls the request it belongs to, such as `chatcmpl-…`."""
    key: str = ""
    """A label of the API key it came with, never the key itself; empty without one."""
    user: str = ""
    """The user that the request names."""
    state: RequestState
    """How it ended: FINISHED_EOS, FINISHED_STOP, FINISHED_MAX_LENGTH, ERROR or CANCELLED. An answer that a stop string
    ended, or whose client has left, is CANCELLED or FINISHED_STOP, as its edge said."""
    code: str = ""
    """With ERROR: the `code` of the error's class, such as `request_timeout`."""
    num_prompt_tokens: int
    num_tokens: int
    """Tokens that were delivered."""
    num_cached_tokens: int = 0
    """Tokens of the prompt that came from the prefix cache."""
    num_drafted: int = 0
    """Tokens that were drafted."""
    num_accepted: int = 0
    """How many of them were accepted."""
    first_token_s: float | None = None
    """Seconds from when it was accepted to its first token; None if there was none."""
    elapsed_s: float
    """Seconds from when it was accepted to its end."""


class IntervalStats(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service at the end of an interval, as the front knows it."""

    state: str
    """`loading`, `ready`, `recovering`, `draining` or `failed`."""
    epoch: int
    interval_s: float
    """Seconds since the last one."""
    num_unfinished: int
    """Accepted requests that have not ended."""
    counters: dict[str, float]
    """Totals since the start by their names on `/metrics` without prefix, such as `generated_tokens_total`."""
    gauges: dict[str, float]
    """Present values in the same way, such as `running_sequences`."""
