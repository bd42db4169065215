"""Tiny models, made once per run and shared by all tests of the torch backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from histrio.kit.omp import bound_spinning

bound_spinning()

import torch  # noqa: E402 - the OpenMP setting is read while torch loads

from histrio_torch.testing import VOCAB_SIZE, Reference, make_model, refer  # noqa: E402


@dataclass
class TinyModel:
    """A saved random model and transformers' own of it."""

    folder: str
    model: Any

    def refer(self, seed: int, num_prompt_tokens: int, num_tokens: int = 32) -> Reference:
        """What transformers says to a random prompt."""
        return refer(self.model, prompt(seed, num_prompt_tokens), num_tokens)


def prompt(seed: int, num_tokens: int) -> list[int]:
    """Random ids of the tiny vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    """Family name → its tiny model."""
    made: dict[str, TinyModel] = {}

    def get(family: str) -> TinyModel:
        if family not in made:
            folder: Path = tmp_path_factory.mktemp(family)
            made[family] = TinyModel(str(folder), make_model(family, folder))
        return made[family]

    return get
