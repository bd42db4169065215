"""The key `precision` of a model: one word for the number formats of products, weights, keys and values."""

from __future__ import annotations

from typing import Any

import msgspec

from histrio.config.topology import Topology
from histrio.errors import TopologyError
from histrio.plugins.registry import Plugins

__all__ = ["check_precision", "with_precision"]

_PATH = "model.precision"
_ROUNDED = {"quantization": "q8"}
"""The option of a stage that rounds weights."""


def with_precision(topology: Topology, checkpoint_dtype: str | None) -> Topology:
    """The topology with the keys that its precision stands for.

    Raises `TopologyError` where one of them is set beside it and says something else.
    """
    precision = topology.model.precision
    if precision is None:
        return topology

    if topology.model.dtype != "auto":
        raise TopologyError(_PATH, "says the number format that dtype says, too; leave one of them out")
    half = "float16" if checkpoint_dtype == "float16" else "bfloat16"
    dtype: Any = "float32" if precision == "full" else half
    changed = msgspec.structs.replace(topology, model=msgspec.structs.replace(topology.model, dtype=dtype))
    if precision != "memory":
        return changed

    stages = []
    for index, stage in enumerate(topology.stages):
        options = {**_ROUNDED, **stage.options}
        if options["quantization"] != _ROUNDED["quantization"]:
            raise TopologyError(_PATH, f"memory rounds weights to q8, and stage[{index}].options says otherwise")
        stages.append(msgspec.structs.replace(stage, options=options))
    memory = msgspec.structs.replace(topology.engine.memory, kv_cache_dtype="int8")
    engine = msgspec.structs.replace(topology.engine, memory=memory)
    return msgspec.structs.replace(changed, stages=stages, engine=engine)


def check_precision(topology: Topology, plugins: Plugins) -> None:
    """Every stage's backend rounds weights where that is asked for. Raises `TopologyError`."""
    if topology.model.precision != "memory":
        return

    for index, stage in enumerate(topology.stages):
        kind = getattr(plugins.backends.get(stage.backend), "options", None) if stage.python is None else None
        if kind is not None and _ROUNDED.keys().isdisjoint(field.name for field in msgspec.structs.fields(kind)):
            text = f"the backend {stage.backend!r} of stage[{index}] does not round weights; use balanced, or backend"
            raise TopologyError(_PATH, f'{text} = "cpu"')
