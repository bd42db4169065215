"""What a backend says to the reference's prompts and tokens, and how far that is from transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from histrio.config.model_config import read_model_config
from histrio.contracts.backend import BackendFactory
from histrio.testing.chain import ChainRow, Logits, StageChain
from histrio.testing.harness import HarnessOptions
from tests.real_models.judge import NUM_TOKENS, Reference, scores_of

BACKENDS = ["torch", "mlx", "cpu"]
DTYPES = ["float32", "bfloat16"]
STAGES = [1, 2]


@dataclass(frozen=True)
class Subject:
    """One cell of the table."""

    model: str
    backend: str
    dtype: str
    num_stages: int


@dataclass(frozen=True)
class Distance:
    """How far one set of log probabilities, in nats, is from another."""

    num_other_tokens: int
    """Places at which another token is the most likely one."""
    most: float
    mean: float


def distance(scores: Any, best: Any, reference: Reference, dtype: str) -> Distance:
    """Of scores and most likely tokens from those of transformers in `dtype`."""
    gap = (torch.tensor(scores) - torch.tensor(reference.scores[dtype])).abs()
    others = torch.tensor(best) != torch.tensor(reference.best[dtype])
    return Distance(int(others.sum()), float(gap.max()), float(gap.mean()))


def run(folder: Path, subject: Subject, reference: Reference, disturb: Any = None) -> tuple[Any, Any]:
    """[prompt][token] log probabilities of the reference's tokens, and the most likely ones, all prompts in a batch.

    The prompts are computed in one step, then one token at a time as in serving.
    """
    chain = open_chain(folder, subject)
    chain.disturb = disturb
    try:
        logits = list(_steps(chain, reference))
    finally:
        chain.close()
    indices = range(len(reference.prompts))
    lines = [torch.stack([torch.as_tensor(step[index]).float() for step in logits]) for index in indices]
    scores = [scores_of(line, tokens) for line, tokens in zip(lines, reference.tokens, strict=True)]
    return scores, [line.argmax(-1).tolist() for line in lines]


def open_chain(folder: Path, subject: Subject) -> StageChain:
    """The model in as many stages, split evenly."""
    num_layers = read_model_config(folder).num_layers
    cuts = [num_layers * stage // subject.num_stages for stage in range(1, subject.num_stages)]
    options = HarnessOptions(
        dtype=subject.dtype, kv_block_size=16, max_batch_size=32, max_num_tokens_per_batch=1024, max_sequence_length=128
    )
    return StageChain(_FACTORIES[subject.backend](), folder, cuts, options)


def _steps(chain: StageChain, reference: Reference) -> Any:
    rows = [ChainRow(slot, prompt) for slot, prompt in enumerate(reference.prompts)]
    for index in range(NUM_TOKENS):
        logits: Logits | None = chain.step(rows)
        assert logits is not None, "every row is sampled"
        yield logits
        rows = [ChainRow(slot, [tokens[index]]) for slot, tokens in enumerate(reference.tokens)]


def _torch() -> BackendFactory:
    from histrio_torch.factory import TorchFactory

    return TorchFactory()


def _mlx() -> BackendFactory:
    from histrio_mlx.factory import MlxFactory

    return MlxFactory()


def _cpu() -> BackendFactory:
    from histrio_cpu.factory import CpuFactory

    return CpuFactory()


_FACTORIES: dict[str, Callable[[], BackendFactory]] = {"torch": _torch, "mlx": _mlx, "cpu": _cpu}
