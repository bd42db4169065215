"""How a spliced model is called: with token ids on the first stage, with hidden states on the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from histrio_torch.loader import StageModel

__all__ = ["hidden_arguments", "kept_states", "run_layers", "scored", "token_arguments"]


def token_arguments(token_ids: torch.Tensor, positions: torch.Tensor) -> dict[str, Any]:
    """What the first stage's model gets; both [1, tokens]."""
    return {"input_ids": token_ids, "position_ids": positions, "use_cache": False}


def hidden_arguments(stage: StageModel, hidden: torch.Tensor, positions: torch.Tensor) -> dict[str, Any]:
    """What the model of another stage gets, which has received `hidden` [1, tokens, hidden]."""
    stage.relay.received = hidden
    # The proxies hand over what was received; what goes in here isn't read, and some models scale it in place.
    return {"inputs_embeds": torch.zeros_like(hidden), "position_ids": positions, "use_cache": False}


def run_layers(stage: StageModel, arguments: dict[str, Any]) -> torch.Tensor:
    """[tokens, hidden] behind the stage's last layer; on the last stage behind the final norm."""
    output = stage.structure.decoder(**arguments)
    produced = stage.relay.produced
    hidden: torch.Tensor = output.last_hidden_state if produced is None else produced
    return hidden[0]


def scored(stage: StageModel, states: torch.Tensor) -> torch.Tensor:
    """What the head of a model that classifies makes of [positions, hidden]; another model's states stay."""
    head = getattr(stage.model, "score", None)
    return states if head is None else head(states)


@contextmanager
def kept_states(stage: StageModel, *, is_asked: bool) -> Iterator[list[torch.Tensor]]:
    """A list that a call of the last stage's whole model puts the states [tokens, hidden] into that its head gets."""
    kept: list[torch.Tensor] = []
    if not is_asked:
        yield kept
        return

    hook = stage.structure.decoder.register_forward_hook(
        lambda _decoder, _given, output: kept.append(output.last_hidden_state[0])
    )
    try:
        yield kept
    finally:
        hook.remove()
