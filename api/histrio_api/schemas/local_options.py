"""What clients of the local servers, Ollama and llama.cpp, mean by their options."""

from __future__ import annotations

from typing import Any

__all__ = ["local_options"]

_OCCURRENCE = {"presence_penalty": 0, "frequency_penalty": 0}
_PENALTIES = _OCCURRENCE | {"repeat_penalty": 1, "repetition_penalty": 1}
"""What looks at the last `repeat_last_n` tokens, and where it does nothing."""
_RANDOM_SEED = -1


def local_options(fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields without a seed that asks for any, and without a window that no penalty looks through; any other
    window is that of all penalties, which elsewhere is the repetition penalty's alone.

    Clients of these servers send all of their options, also those that do nothing.
    """
    idle = set()
    if fields.get("seed") == _RANDOM_SEED:
        idle.add("seed")
    if not _are_on(_PENALTIES, fields):
        idle.add("repeat_last_n")
    found = {name: value for name, value in fields.items() if name not in idle}
    if found.get("repeat_last_n") is not None and _are_on(_OCCURRENCE, fields):
        found.setdefault("occurrence_last_n", found["repeat_last_n"])
    return found


def _are_on(penalties: dict[str, int], fields: dict[str, Any]) -> bool:
    return not all(fields.get(name) in (None, neutral) for name, neutral in penalties.items())
