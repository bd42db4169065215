"""A range of layers as a rank of a pipeline that does not exist.

SGLang builds a model's layers for its rank in the pipeline group, and asks that group whether it is the first and the
last. A stage is given a group that answers for its rank, over the real one, which has this process alone. How many
layers each rank of the pipeline has is said in an environment variable of SGLang's own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from histrio.contracts.backend import StageSpec

__all__ = ["VirtualGroup", "VirtualRank", "virtual_rank"]

_PARTITION = "SGLANG_PP_LAYER_PARTITION"


@dataclass(frozen=True)
class VirtualRank:
    """A stage's rank in the imagined pipeline."""

    rank: int
    layers: tuple[int, ...]
    """Layers of every rank, in order."""

    @property
    def size(self) -> int:
        """Ranks of the pipeline."""
        return len(self.layers)

    def announce(self) -> None:
        """Tell SGLang the partition, for models that are built from now on."""
        if self.size == 1:
            os.environ.pop(_PARTITION, None)
        else:
            os.environ[_PARTITION] = ",".join(map(str, self.layers))


def virtual_rank(spec: StageSpec) -> VirtualRank:
    """What lies before the stage is one rank, what lies behind it another."""
    before, behind = spec.first_layer, spec.num_layers - spec.last_layer
    layers = [count for count in (before, spec.last_layer - spec.first_layer, behind) if count]
    return VirtualRank(int(before > 0), tuple(layers))


class VirtualGroup:
    """The real pipeline group of one process, answering for a virtual rank."""

    def __init__(self, group: Any, rank: VirtualRank) -> None:
        self.real = group
        self.rank_in_group = rank.rank
        self.world_size = rank.size
        self.is_first_rank = rank.rank == 0
        self.is_last_rank = rank.rank == rank.size - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)
