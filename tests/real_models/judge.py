"""What transformers itself says: greedy tokens in float32, and how likely each of them is in both precisions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "def fibonacci(n):\n    ",
    "The three primary colours are",
    "Water boils at a temperature of",
    "In 1969, Neil Armstrong",
    "Q: What is 12 + 7?\nA:",
    "Dear Sir or Madam,\n\nI am writing to",
    '{"name": "Alice", "age":',
    "Die Hauptstadt von Deutschland ist",
    "La plus grande ville du Japon est",
    "日本の首都は",
    "SELECT name, price FROM products WHERE",
    "The recipe calls for two cups of flour, one cup of sugar and",
    "To be, or not to be, that is",
    "Photosynthesis is the process by which plants",
    "1, 1, 2, 3, 5, 8, 13,",
    "# Shopping list\n\n- milk\n- eggs\n-",
    "He opened the door slowly. Behind it, in the dark,",
    "The difference between a virus and a bacterium is that",
]
NUM_TOKENS = 24
Scores = list[list[float]]
"""Per prompt, the log probability of each of the reference's tokens."""


@dataclass(frozen=True)
class Reference:
    """One model's prompts and greedy tokens in float32, and their log probabilities in transformers."""

    prompts: list[list[int]]
    tokens: list[list[int]]
    scores: dict[str, Scores]
    """dtype → log probabilities."""
    best: dict[str, list[list[int]]]
    """dtype → the most likely token at each position, behind the reference's tokens."""
    texts: list[str]


def refer(folder: Path) -> Reference:
    """The reference of the model in `folder`; kept beside it, for making it takes a minute."""
    kept = folder / "reference.json"
    if kept.exists():
        return Reference(**json.loads(kept.read_text(encoding="utf-8")))

    reference = _make(folder)
    kept.write_text(json.dumps(vars(reference)), encoding="utf-8")
    return reference


def scores_of(logits: torch.Tensor, tokens: list[int]) -> list[float]:
    """[positions, vocab] → the log probability of each position's token."""
    chosen: list[float] = torch.log_softmax(logits.double(), dim=-1)[range(len(tokens)), tokens].tolist()
    return chosen


def _make(folder: Path) -> Reference:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    model = _model(folder, torch.float32)
    tokens = [_greedy(model, prompt) for prompt in prompts]
    made = Reference(prompts, tokens, {}, {}, [tokenizer.decode(line) for line in tokens])
    for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        model = _model(folder, dtype)
        logits = [_logits(model, prompt, line) for prompt, line in zip(prompts, tokens, strict=True)]
        made.scores[name] = [scores_of(each, line) for each, line in zip(logits, tokens, strict=True)]
        made.best[name] = [each.argmax(-1).tolist() for each in logits]
    return made


def _model(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


def _greedy(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    limits: Any = {"min_new_tokens": NUM_TOKENS, "max_new_tokens": NUM_TOKENS, "do_sample": False}
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **limits)
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def _logits(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """[tokens, vocab] before each of the tokens."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([prompt + tokens[:-1]])).logits[0]
    return logits[len(prompt) - 1 :].float()
