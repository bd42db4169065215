"""MLX stages of one model behind each other in one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from histrio.contracts.backend import OpenedStage, Progress, StageSpec
from histrio.testing.chain import Logits, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_mlx.factory import MlxFactory
from histrio_mlx.testing.models import MAX_LENGTH

__all__ = ["MlxChain", "as_torch"]


class MlxChain(StageChain):
    """A chain with limits that suit the tiny models; `settings` are of `HarnessOptions`, and `adapter` is a folder."""

    def __init__(self, model: Path, cuts: Sequence[int] = (), *, adapter: Path | None = None, **settings: Any) -> None:
        limits = {
            "kv_block_size": 16,
            "num_cache_blocks": 64,
            "max_num_tokens_per_batch": 256,
            "max_sequence_length": MAX_LENGTH,
        }
        super().__init__(_Factory(adapter), model, cuts, HarnessOptions(**{**limits, **settings}))


def as_torch(logits: Logits | None) -> torch.Tensor:
    """The logits as torch has them, to compare them with transformers' own."""
    assert logits is not None, "no row was sampled"
    return torch.from_numpy(logits)


class _Factory(MlxFactory):
    def __init__(self, adapter: Path | None) -> None:
        super().__init__()
        self._adapter = adapter

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        adapter = None if self._adapter is None else str(self._adapter)
        return super().open(msgspec.structs.replace(spec, adapter=adapter), progress)
