"""What clients of the local servers, Ollama and llama.cpp, send although it does nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["without_idle_options"]

_PENALTIES = {
    "repeat_penalty": 1,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
"""What looks at the last `repeat_last_n` tokens, and where it does nothing."""
_RANDOM_SEED = -1


def without_idle_options(fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields without a seed that asks for any, and without a window that no penalty looks through.

    Clients of these servers send all of their options, also those that do nothing.
    """
    idle = set()
    if fields.get("seed") == _RANDOM_SEED:
        idle.add("seed")
    if all(fields.get(name) in (None, neutral) for name, neutral in _PENALTIES.items()):
        idle.add("repeat_last_n")
    return {name: value for name, value in fields.items() if name not in idle}
