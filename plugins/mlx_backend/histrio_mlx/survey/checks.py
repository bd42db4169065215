"""The checks of one family: each compares a run through the backend with mlx-lm's own model, and has a control.

A control is the same run with one thing wrong on purpose. Where it changes nothing, the check has seen nothing, and
its verdict is no.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Capability
from histrio.errors import HistrioError, UnsupportedModel
from histrio.messages import Tensor
from histrio.testing.chain import ChainRow, StageChain
from histrio_mlx.compat import load_model, make_prompt_cache, model_classes
from histrio_mlx.corrections import corrected_class
from histrio_mlx.factory import MlxFactory
from histrio_mlx.families import Family, assumed
from histrio_mlx.survey.tiny import write_model

__all__ = ["CONTROL", "TOLERANCE", "add_noise", "describe", "survey_family"]

TOLERANCE = 1e-4
"""Most that logits may differ, relative to the largest: float32, sums in another order."""
CONTROL = 20 * TOLERANCE
"""Least that a control must change."""

_PROMPTS = (7, 11, 3, 7)
_NUM_DECODED = 6
_LEAK = ": its layers read ids or embeddings, which only the first stage has"
_Floats = npt.NDArray[np.float32]
Disturb = Callable[[Tensor], Tensor]


@dataclass
class _Trial:
    """A family on its way to a verdict."""

    folder: Path
    num_layers: int
    sequences: list[list[int]]
    """Prompts of `_PROMPTS` tokens, each with what follows it."""
    expected: list[_Floats]
    """[1 + _NUM_DECODED, vocab] of each sequence: mlx-lm's logits behind the prompt and behind each token after it."""
    cuts: list[int] = field(default_factory=list)
    """Where the model can be split; none if one of those that were tried is wrong."""
    parts: list[str] = field(default_factory=list)
    can_rewind: bool = False
    errors: dict[str, float] = field(default_factory=dict)
    controls: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """What went wrong → the checks in which it did."""

    @property
    def reason(self) -> str:
        """All that went wrong, in one line."""
        return "; ".join(f"{check}: {text}" for text, check in self.reasons.items())

    def passes(self, name: str, check: Callable[[], tuple[float, float]]) -> bool:
        """Run a check, which gives the error and what its control changed; note both, and why it failed if it did."""
        try:
            error, control = check()
        except Exception as failure:
            self._note(name, describe(failure, self.folder))
            return False

        if np.isfinite(error) and np.isfinite(control):
            self.errors[name], self.controls[name] = float(f"{error:.1e}"), float(f"{control:.1e}")
        if not np.isfinite(error):
            self._note(name, "logits are not finite" + (_LEAK if name.startswith("split") else ""))
        elif error > TOLERANCE:
            self._note(name, f"logits differ by {error:.0e} of the largest")
        elif not control >= CONTROL:
            self._note(name, "its control changes nothing, so it shows nothing")
        return error <= TOLERANCE and control >= CONTROL

    def _note(self, check: str, text: str) -> None:
        checks = [*self.reasons[text].split(", "), check] if text in self.reasons else [check]
        self.reasons[text] = ", ".join(dict.fromkeys(checks))

    def chain(self, cuts: list[int]) -> StageChain:
        """Stages of the model, opened."""
        return StageChain(MlxFactory(), self.folder, cuts)

    def prompt(self, index: int) -> list[int]:
        """Prompt of a sequence."""
        return self.sequences[index][: _PROMPTS[index]]

    def rest(self, index: int) -> list[int]:
        """What follows it."""
        return self.sequences[index][_PROMPTS[index] :]


class _Judge:
    """mlx-lm's own model with our corrections, one sequence at a time."""

    def __init__(self, folder: Path) -> None:
        self._model, _ = load_model(folder, get_model_classes=_corrected_classes)
        self.num_layers = len(self._model.layers)

    def logits(self, prompt: list[int], rest: list[int]) -> _Floats:
        """[1 + rest, vocab] behind the prompt and behind each token after it."""
        caches = make_prompt_cache(self._model)
        found = [self._model(mx.array([ids]), cache=caches)[0, -1] for ids in [prompt, *([token] for token in rest)]]
        return np.stack([np.array(row.astype(mx.float32)) for row in found])


def _corrected_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    model_class, arguments = model_classes(config)
    return corrected_class(model_class, config), arguments


def survey_family(name: str, config: dict[str, Any], *, disturb: Disturb | None = None) -> Family:
    """Run all checks on a tiny model. `disturb` breaks what goes from stage to stage, for tests of the survey."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            trial = _begin(config, Path(folder))
        except Exception as error:
            return Family(reason=f"mlx-lm: {describe(error, Path(folder))}", metal_only="Metal" in str(error))

        # A model that can't be spliced or split may still run as it is, which the backend then does.
        for splittable in (True, False):
            with assumed(name, Family(runs=True, splittable=splittable, batchable=True)):
                runs = _runs(trial, "spliced" if splittable else "whole")
                if runs and (not splittable or _splits(trial, disturb)):
                    return _check_rest(trial)

        return Family(num_layers=trial.num_layers, reason=trial.reason, errors=trial.errors, controls=trial.controls)


def _runs(trial: _Trial, name: str) -> bool:
    return trial.passes(name, partial(_check_whole, trial)) and trial.passes("chunks", partial(_check_chunks, trial))


def _splits(trial: _Trial, disturb: Disturb | None) -> bool:
    cuts = sorted({1, trial.num_layers // 2, trial.num_layers - 1} - {0})
    passed = [trial.passes(f"split@{cut}", partial(_check_split, trial, cut, disturb)) for cut in cuts]
    trial.cuts = cuts if all(passed) else []
    return all(passed)


def _check_rest(trial: _Trial) -> Family:
    """The verdict on a family that runs, in parts if it has cuts."""
    return Family(
        runs=True,
        splittable=bool(trial.cuts),
        cuts=trial.cuts,
        num_layers=trial.num_layers,
        batchable=trial.passes("batch", partial(_check_batch, trial)),
        rewindable=trial.can_rewind and trial.passes("rewind", partial(_check_rewind, trial)),
        parts=trial.parts if trial.cuts else [],
        reason=trial.reason,
        errors=trial.errors,
        controls=trial.controls,
    )


def describe(error: Exception, folder: Path) -> str:
    """An error in one line, without the folder, which is gone by then."""
    text = str(error).partition("\n")[0].replace(f"{folder}: ", "").replace(str(folder), "the model")
    return text if isinstance(error, HistrioError) else f"{type(error).__name__}: {text}"


def _begin(config: dict[str, Any], folder: Path) -> _Trial:
    judge = _Judge(write_model(config, folder))
    vocab = judge.logits([3], []).shape[-1]
    random = np.random.default_rng(0)
    lengths = [prompt + _NUM_DECODED for prompt in _PROMPTS]
    sequences: list[list[int]] = [random.integers(3, min(vocab, 250), length).tolist() for length in lengths]
    trial = _Trial(folder, judge.num_layers, sequences, [])
    trial.expected = [judge.logits(trial.prompt(index), trial.rest(index)) for index in range(len(sequences))]
    if not np.isfinite(trial.expected).all():
        raise UnsupportedModel("its own logits are not finite")

    return trial


def _check_whole(trial: _Trial) -> tuple[float, float]:
    """One stage with all layers, a prompt and what follows. Control: another first token, seen through the cache."""
    with closing(trial.chain([])) as chain:
        trial.can_rewind = all(Capability.REWIND in capacity.capabilities for capacity in chain.capacities)
        found = _play(chain, trial.prompt(0), trial.rest(0))
        other = _play(chain, [_another(trial.prompt(0)[0]), *trial.prompt(0)[1:]], trial.rest(0))
    return _difference(found, trial.expected[0]), _difference(other[1:], trial.expected[0][1:])


def _check_chunks(trial: _Trial) -> tuple[float, float]:
    """A prompt in three steps. Control: another token in the second one."""
    prompt = trial.prompt(1)
    with closing(trial.chain([])) as chain:
        found = _play_chunks(chain, prompt, trial.rest(1))
        other = _play_chunks(chain, [*prompt[:4], _another(prompt[4]), *prompt[5:]], trial.rest(1))
    return _difference(found, trial.expected[1]), _difference(other[1:], trial.expected[1][1:])


def _check_split(trial: _Trial, cut: int, disturb: Disturb | None) -> tuple[float, float]:
    """Two stages. Control: noise on what goes between them."""
    names: set[str] = set()

    def look(tensor: Tensor) -> Tensor:
        if 0 not in tensor.shape:
            names.add(tensor.name)
        return tensor if disturb is None else disturb(tensor)

    with closing(trial.chain([cut])) as chain:
        chain.disturb = look
        found = _play(chain, trial.prompt(0), trial.rest(0))
        chain.disturb = add_noise
        noisy = _play(chain, trial.prompt(0), trial.rest(0))
    trial.parts = sorted({*trial.parts, *names} - {""})
    return _difference(found, trial.expected[0]), _difference(noisy, trial.expected[0])


def _check_batch(trial: _Trial) -> tuple[float, float]:
    """Four rows of different lengths in every step. Control: two of equal length continue as each other."""
    with closing(trial.chain(_middle(trial))) as chain:
        found = _play_together(chain, trial, [0, 1, 2, 3])
        swapped = _play_together(chain, trial, [3, 1, 2, 0])
    expected = np.stack(trial.expected)
    return _difference(found, expected), _difference(swapped[[0, 3], 1:], expected[[0, 3], 1:])


def _check_rewind(trial: _Trial) -> tuple[float, float]:
    """Four draft tokens, of which the first is right, then on from there. Control: the wrong ones stay."""
    prompt, rest = trial.prompt(0), trial.rest(0)
    errors = []
    with closing(trial.chain(_middle(trial))) as chain:
        for kept in (1, 4):
            chain.step([ChainRow(0, prompt)])
            chain.step([ChainRow(0, [rest[0], *(_another(token) for token in rest[1:4])])])
            chain.rewind(0, len(prompt) + kept)
            errors.append(_difference(_play(chain, rest[1:2], rest[2:]), trial.expected[0][2:]))
    return errors[0], errors[1]


def _middle(trial: _Trial) -> list[int]:
    """Where to split for the checks that are not about splitting: two stages see more than one."""
    return trial.cuts[len(trial.cuts) // 2 :][:1]


def _play(chain: StageChain, prompt: list[int], rest: list[int]) -> _Floats:
    """[1 + rest, vocab] logits of one sequence, which then leaves."""
    found = [_logits(chain, [ChainRow(0, ids)]) for ids in [prompt, *([token] for token in rest)]]
    chain.leave(0)
    return np.concatenate(found)


def _play_chunks(chain: StageChain, prompt: list[int], rest: list[int]) -> _Floats:
    for chunk in (prompt[:4], prompt[4:5]):
        chain.step([ChainRow(0, chunk, num_sampled=0)])
    return _play(chain, prompt[5:], rest)


def _play_together(chain: StageChain, trial: _Trial, slots: list[int]) -> _Floats:
    """[rows, 1 + rest, vocab] of all sequences in common steps; after the prompt, sequence i goes on in `slots[i]`."""
    rows = range(len(slots))
    found = [_logits(chain, [ChainRow(row, trial.prompt(row)) for row in rows])]
    found += [
        _logits(chain, [ChainRow(slots[row], [trial.rest(row)[step]]) for row in rows]) for step in range(_NUM_DECODED)
    ]
    for row in rows:
        chain.leave(row)
    return np.stack(found, axis=1)


def _logits(chain: StageChain, rows: list[ChainRow]) -> _Floats:
    logits = chain.step(rows)
    assert logits is not None, "sampled rows have logits"
    return logits


def _another(token: int) -> int:
    return 3 + (token - 3 + 5) % 20


def add_noise(tensor: Tensor) -> Tensor:
    """A tenth of a standard deviation on every float, of float32 tensors."""
    if tensor.dtype != "float32" or 0 in tensor.shape:
        return tensor

    values = np.frombuffer(tensor.data, np.float32)
    noise = np.random.default_rng(1).standard_normal(values.shape, np.float32)
    return Tensor(tensor.dtype, tensor.shape, (values + 0.1 * values.std() * noise).data, tensor.name)


def _difference(found: _Floats, expected: _Floats) -> float:
    """Largest, relative to the largest expected value; infinite where something is not finite."""
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    return difference if np.isfinite(difference) else np.inf
