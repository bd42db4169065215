"""A line in the log for each request: how it ended, what it took, and nothing of what was asked or answered."""

from __future__ import annotations

import logging
from collections.abc import Collection

from histrio.errors import HistrioError
from histrio_api.schemas.usage import Usage

__all__ = ["log_finished", "log_refusal"]

logger = logging.getLogger(__name__)


def log_finished(
    request_id: str, model: str, usage: Usage, states: Collection[str], times_s: tuple[float | None, float]
) -> None:
    """Of a request that was taken. `states`: how its choices ended. `times_s`: to its first token, and to its end."""
    first_s, elapsed_s = times_s
    logger.info(
        "%s model=%s prompt_tokens=%d cached_tokens=%d completion_tokens=%d state=%s first_token_s=%s elapsed_s=%.3f",
        request_id,
        model,
        usage.prompt_tokens,
        usage.prompt_tokens_details.cached_tokens,
        usage.completion_tokens,
        ",".join(sorted(set(states))),
        "-" if first_s is None else f"{first_s:.3f}",
        elapsed_s,
    )


def log_refusal(path: str, error: HistrioError) -> None:
    """Of a request that was answered with an error, or not at all."""
    logger.info("refused path=%s status=%d code=%s", path, error.status, error.code)
