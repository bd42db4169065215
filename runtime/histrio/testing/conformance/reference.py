"""Independent judges of what a model says: transformers, and for the toy its plain rewrite."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias

import numpy as np

from histrio.errors import BackendError
from histrio.testing.chain import Logits
from histrio.testing.conformance.kit import Judge, KitModel
from histrio.testing.toy import read_toy_config, toy_continuation, toy_logits

__all__ = ["Reference", "TextReference", "reference_for", "text_reference_for"]


class Reference(Protocol):
    """Computes without blocks, batches and stages."""

    def logits(self, ids: list[int]) -> Logits:
        """[ids, vocab]"""

    def greedy(self, ids: list[int], num_tokens: int) -> list[int]:
        """The most likely continuation; nothing ends it early."""


TextReference: TypeAlias = Callable[[list[int]], Logits]
"""From ids to [positions, numbers]: hidden states of all, or of a classifier what its head makes of the text."""


@cache
def text_reference_for(model: KitModel) -> TextReference | str:
    """The judge of a model that reads whole texts, or why there is none."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: no judge"
    torch, transformers = import_module("torch"), import_module("transformers")
    made = transformers.AutoModelForSequenceClassification if model.kind == "score" else transformers.AutoModel
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            loaded = made.from_pretrained(model.folder, dtype=torch.float32).eval()
    except (OSError, ValueError, KeyError) as error:
        return f"transformers cannot load {model.name}: {str(error).splitlines()[0]}"

    def states(ids: list[int]) -> Logits:
        with torch.no_grad():
            found = loaded(torch.tensor([ids]))
        taken: Logits = (found.logits if model.kind == "score" else found.last_hidden_state[0]).float().numpy()
        return taken

    return states


@cache
def reference_for(model: KitModel, judge: Judge | None = None) -> Reference | str:
    """The judge for a model: the author's own if there is one; or why there is none."""
    if judge is not None:
        return _Own(model, judge)
    if read_toy_config(str(model.folder)).get("model_type") == "toy":
        return _Toy(model)

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: no judge"
    try:
        return _Transformers(model)
    except (OSError, ValueError, KeyError) as error:
        return f"transformers cannot load {model.name}: {str(error).splitlines()[0]}"


class _Own:
    """An author's function, whose answers are looked at before they are believed."""

    def __init__(self, model: KitModel, judge: Judge) -> None:
        self._model, self._judge = model, judge

    def logits(self, ids: list[int]) -> Logits:
        found: Logits = np.asarray(self._judge(self._model.folder, list(ids)), np.float32)
        expected = (len(ids), self._model.vocab_size)
        if found.shape != expected or np.isnan(found).any():
            text = f"the judge answered an array of shape {found.shape}, with NaN: {bool(np.isnan(found).any())}"
            raise BackendError(f"{text}; it has to be {expected}, [ids, vocab], without NaN")
        return found

    def greedy(self, ids: list[int], num_tokens: int) -> list[int]:
        ids = list(ids)
        for _ in range(num_tokens):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[-num_tokens:]


class _Toy:
    def __init__(self, model: KitModel) -> None:
        self._sizes = {"num_layers": model.num_layers, "vocab_size": model.vocab_size}

    def logits(self, ids: list[int]) -> Logits:
        return np.stack([toy_logits(ids[: end + 1], **self._sizes) for end in range(len(ids))])

    def greedy(self, ids: list[int], num_tokens: int) -> list[int]:
        return toy_continuation(ids, num_tokens, **self._sizes)


class _Transformers:
    """In float32 on the CPU. Imported by name: the core knows no array library, and this is for tests alone."""

    def __init__(self, model: KitModel) -> None:
        self._torch: Any = import_module("torch")
        transformers: Any = import_module("transformers")
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            loaded = transformers.AutoModelForCausalLM.from_pretrained(model.folder, dtype=self._torch.float32)
        self._model = loaded.eval()
        self._model.generation_config.eos_token_id = None

    def logits(self, ids: list[int]) -> Logits:
        with self._torch.no_grad():
            found: Logits = self._model(self._torch.tensor([ids])).logits[0].float().numpy()
        return found

    def greedy(self, ids: list[int], num_tokens: int) -> list[int]:
        given = self._torch.tensor([ids])
        with self._torch.no_grad():
            output = self._model.generate(
                given, attention_mask=self._torch.ones_like(given), max_new_tokens=num_tokens, do_sample=False
            )
        tokens: list[int] = output[0, len(ids) :].tolist()
        return tokens
