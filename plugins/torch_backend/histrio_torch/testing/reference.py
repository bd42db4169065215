"""What transformers itself says about a prompt, and the law by which a stage must agree with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from histrio.testing.chain import Logits

__all__ = ["MOST_ERROR", "Excuses", "Reference", "logits_error", "refer"]

MOST_ERROR = 1e-4
"""Most difference of prompt logits, as a share of the largest logit."""
_SMALLEST_GAP = 1e-5
"""Where the reference's two largest logits are nearer than this share of the largest, either token is right."""


@dataclass(frozen=True)
class Reference:
    """A prompt and what transformers makes of it, greedy, in float32."""

    ids: list[int]
    logits: torch.Tensor
    """[prompt tokens, vocab]"""
    tokens: list[int]
    gaps: list[float]
    """Distance of the two largest logits at each generated token, as a share of the largest magnitude."""

    def first(self, num_tokens: int) -> Reference:
        """The same with fewer generated tokens."""
        return Reference(self.ids, self.logits, self.tokens[:num_tokens], self.gaps[:num_tokens])


@dataclass
class Excuses:
    """Counts compared tokens and those excused because the reference itself was undecided."""

    num_tokens: int = 0
    num_excused: int = 0

    def compare(self, tokens: Sequence[int], reference: Reference) -> None:
        """Assert equality up to an excused token; what follows one isn't comparable."""
        assert len(tokens) == len(reference.tokens)
        for index, (token, expected) in enumerate(zip(tokens, reference.tokens, strict=True)):
            self.num_tokens += 1
            if token == expected:
                continue

            assert reference.gaps[index] < _SMALLEST_GAP, f"token {index}: {token} instead of {expected}"
            self.num_excused += 1
            return

    @property
    def share(self) -> float:
        """Excused tokens among those compared."""
        return self.num_excused / max(self.num_tokens, 1)


def refer(model: Any, ids: Sequence[int], num_tokens: int = 32) -> Reference:
    """Run transformers' own forward and `generate` on one prompt."""
    prompt = torch.tensor([list(ids)])
    with torch.no_grad():
        logits = model(prompt).logits[0]
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=num_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    steps = torch.cat(list(output.logits))
    best = steps.topk(2, dim=-1).values
    gaps = ((best[:, 0] - best[:, 1]) / steps.abs().amax(dim=-1)).tolist()
    return Reference(list(ids), logits, output.sequences[0, len(ids) :].tolist(), gaps)


def logits_error(logits: torch.Tensor | Logits | None, reference: torch.Tensor | Logits) -> float:
    """Largest difference as a share of the reference's largest magnitude."""
    expected = torch.as_tensor(reference)
    return float((torch.as_tensor(logits).float() - expected).abs().max() / expected.abs().max())
