"""Sampling fields that together leave no token to begin with: told at once, not in the middle of an answer."""

from __future__ import annotations

from collections.abc import Collection

from histrio.errors import RequestError
from histrio.messages import SamplingFields

__all__ = ["require_a_token"]


def require_a_token(sampling: SamplingFields, end_ids: Collection[int], vocab_size: int) -> None:
    """Raise `RequestError` if no token can come first. `sampling` is checked, `end_ids` end the text.

    What becomes impossible later on cannot be known before.
    """
    forbidden = {word[0] for word in sampling.get("bad_words_ids") or () if len(word) == 1}
    is_banned = bool(forbidden)
    if sampling.get("min_tokens"):
        forbidden.update(end_ids)
    allowed = sampling.get("allowed_token_ids")
    if not forbidden or (allowed is None and len(forbidden) < vocab_size):
        return
    if forbidden.issuperset(range(vocab_size) if allowed is None else allowed):
        param = "bad_words_ids" if is_banned else "min_tokens"
        beside = "" if allowed is None else " beside allowed_token_ids"
        raise RequestError(f"{param}: leaves no token to begin with{beside}", param=param)
