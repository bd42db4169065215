"""Tiny models, made once per run by transformers, which is also the judge of what MLX stages say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from histrio.kit.omp import bound_spinning

bound_spinning()

import torch  # noqa: E402 - the OpenMP setting is read while torch loads

from histrio_mlx.testing import VOCAB_SIZE, make_model  # noqa: E402
from histrio_torch.testing import Reference, refer  # noqa: E402


@dataclass
class TinyModel:
    """A saved random model and transformers' own of it."""

    folder: Path
    model: Any

    def refer(self, seed: int, num_prompt_tokens: int, num_tokens: int = 32) -> Reference:
        """What transformers says to a random prompt."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, VOCAB_SIZE, (num_prompt_tokens,), generator=generator).tolist()
        return refer(self.model, ids, num_tokens)


@pytest.fixture(scope="session")
def mlx_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TinyModel]:
    """Family name, and settings on top of the family's → its tiny model."""
    made: dict[str, TinyModel] = {}

    def get(family: str, **settings: Any) -> TinyModel:
        key = f"{family} {sorted(settings.items())}"
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            made[key] = TinyModel(folder, make_model(family, folder, **settings))
        return made[key]

    return get
