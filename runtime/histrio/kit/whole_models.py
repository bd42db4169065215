"""What no engine backend can do, whichever it is."""

from __future__ import annotations

from pathlib import Path

from histrio.config.model_config import read_model_config
from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError
from histrio.kit.checkpoint import refuse_gguf

__all__ = ["check_engine"]


def check_engine(spec: StageSpec, backend: str) -> None:
    """Raise `BackendError` for what no engine can do: a part of a model, an adapter; `UnsupportedModel` for GGUF."""
    refuse_gguf(Path(spec.model))
    count = read_model_config(Path(spec.model)).num_layers
    if (spec.first_layer, spec.last_layer) != (0, count):
        raise BackendError(
            f"an engine runs all {count} layers of a model, not {spec.first_layer}:{spec.last_layer}; give the whole "
            "model to one stage"
        )

    if spec.adapter is not None:
        raise BackendError(f"the {backend} backend applies no adapters; merge the adapter into the weights")
