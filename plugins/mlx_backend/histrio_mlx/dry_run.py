"""One token, and then two, through a stage whose weights are not read yet: finds what its layers store.

Nothing is evaluated: MLX knows shapes and dtypes of what it has not computed.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from histrio.contracts.backend import ReplicaSize, StageSpec
from histrio.errors import UnsupportedModel
from histrio_mlx.blocks import CallContext
from histrio_mlx.cache import StageCaches
from histrio_mlx.compat import ArraysCache, CacheList, make_prompt_cache, model_classes
from histrio_mlx.config import Config
from histrio_mlx.groups import Group
from histrio_mlx.splice import Parts, Relay, splice

__all__ = ["DryRun"]


class DryRun:
    """Runs a stage on inputs as it will get them."""

    def __init__(self, relay: Relay, config: Config, spec: StageSpec, dtype: mx.Dtype) -> None:
        self._relay, self._dtype = relay, dtype
        self._before = None if spec.is_first else _stages_before(config, spec)

    def used_caches(self) -> list[Any]:
        """mlx-lm's own caches after the stage's layers have used them. Raises `UnsupportedModel`."""
        shapes: list[Any] = []
        caches: list[Any] = []
        for num_tokens in (1, 2):
            caches = make_prompt_cache(self._relay.model)
            self._relay.run_layers(self._inputs(1, num_tokens), caches)
            shapes.append([_state_shapes(cache) for cache in caches])
        if shapes[0] != shapes[1]:
            raise UnsupportedModel("its recurrent state changes its shape with the length of a sequence")

        return caches

    def can_batch(self, caches: StageCaches) -> bool:
        """Whether rows of different lengths get through the layers in one call; leaves `caches` without memory."""
        # A number of rows that is also a number of heads would let wrong axes pass.
        num_rows = max([pool.heads for pool in caches.pools], default=1) + 2
        rows = np.arange(num_rows)
        group = Group(rows, rows, rows + 1, 1, np.zeros((num_rows, 1), np.int32), rows, 0 * rows)
        caches.allocate(ReplicaSize(1, num_rows + 1, num_rows, num_rows, num_rows + 1))
        try:
            self._relay.run_layers(self._inputs(num_rows, 1), caches.views(CallContext(group, num_rows + 1)))
        except (ValueError, TypeError, RuntimeError):
            return False
        finally:
            caches.free()
        return True

    def _inputs(self, num_rows: int, num_tokens: int) -> mx.array | Parts:
        ids = mx.zeros((num_rows, num_tokens), mx.int32)
        if self._before is None:
            return ids

        parts = self._before.run_layers(ids, make_prompt_cache(self._before.model))
        for name, part in parts.items():
            if part.size and part.shape[:2] != (num_rows, num_tokens):
                raise UnsupportedModel(
                    f"its layers hand on {name} of shape {part.shape}, which is not [rows, tokens, …]"
                )

        return {name: mx.zeros(part.shape, self._dtype_of(part)) for name, part in parts.items()}

    def _dtype_of(self, part: mx.array) -> mx.Dtype:
        return self._dtype if mx.issubdtype(part.dtype, mx.floating) else part.dtype


def _stages_before(config: Config, spec: StageSpec) -> Relay:
    """The layers before the stage's, without weights: they know what the stage is going to receive."""
    model_class, arguments = model_classes(config)
    model = model_class(arguments.from_dict(config))
    return splice(model, StageSpec(spec.model, 0, spec.first_layer, spec.num_layers))


def _state_shapes(cache: Any) -> Any:
    if type(cache) is CacheList:
        return [_state_shapes(part) for part in cache.caches]

    if type(cache) is ArraysCache:
        return [None if array is None else tuple(array.shape) for array in cache.cache]

    return None
