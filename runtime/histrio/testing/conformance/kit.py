"""What a run of the kit tests: a backend, its settings, and the models it says it supports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from histrio.config.model_config import read_model_config
from histrio.config.model_kind import ModelKind, model_kind
from histrio.config.settings import SizeSettings
from histrio.contracts.backend import Capability, Probe, StageSpec
from histrio.errors import BackendError
from histrio.testing.conformance.hosts import checked_spec
from histrio.testing.conformance.resolve import find_factory
from histrio.testing.encoders import ENCODERS, write_encoder
from histrio.testing.models import MODELS, write_model
from histrio.testing.toy import write_toy_model

__all__ = ["MAX_SEQUENCE_LENGTH", "Judge", "Kit", "KitModel", "all_cuts", "needs"]

MAX_SEQUENCE_LENGTH = 256
_MOST_LAYERS_FOR_ALL_CUTS = 4
_TOY = "toy"
Judge: TypeAlias = Callable[[Path, list[int]], npt.NDArray[np.float32]]
"""From a model's folder and ids to the logits [ids, vocab] that it should give."""


def needs(*capabilities: Capability) -> pytest.MarkDecorator:
    """Run the test only where the opened backend declares all of these."""
    return pytest.mark.needs(*capabilities)


@dataclass(frozen=True, slots=True)
class KitModel:
    """A model on disk."""

    name: str
    folder: Path
    num_layers: int
    vocab_size: int
    kind: ModelKind = "generate"

    def spec(self, **changes: Any) -> StageSpec:
        """The placement of the whole model as the kit asks for it, with changes."""
        placed = StageSpec(
            model=str(self.folder),
            first_layer=0,
            last_layer=self.num_layers,
            num_layers=self.num_layers,
            dtype="float32",
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            sizes=SizeSettings(max_batch_size=8),
        )
        return msgspec.structs.replace(placed, **changes)


class Kit:
    """The backend called `name` with `options`. Raises `PluginError`, or `BackendError` if nothing can be tested.

    `models` are names of the kit's own, which are written into `folder`, or folders; none is all of the kit's.
    """

    def __init__(self, name: str, options: dict[str, Any], folder: Path, models: Sequence[str] = ()) -> None:
        self.factory = find_factory(name)
        self.name = self.factory.name
        self.level = self.factory.traits.level
        self.options = options
        machine = self.factory.probe()
        if not machine.available:
            raise BackendError(f"{name} cannot be used here: {machine.reason}; {machine.remedy}")

        answers = {each.name: (each, self.supports(each.spec(options=options))) for each in _models(folder, models)}
        taken = {name: each for name, (each, answer) in answers.items() if answer.available}
        self.models = {name: each for name, each in taken.items() if each.kind == "generate"}
        """Name → model; those that the backend supports whole."""
        self.text_models = {name: each for name, each in taken.items() if each.kind != "generate"}
        """Of these, those that read whole texts, for vectors or scores; they have laws of their own."""
        self.refused = {name: answer.reason for name, (_, answer) in answers.items() if not answer.available}
        """Name → why not."""
        self.judge: Judge | None = None
        """What the models should say, where that is not for the kit's own judges."""
        self.declared: dict[str, list[str]] = {}
        """Model → capabilities, once it was opened."""
        if not taken:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
            raise BackendError(
                f"{self.name} supports no model of the kit, so name one with --backend-model ({reasons})"
            )

    def supports(self, spec: StageSpec) -> Probe:
        """What the backend says of a placement; options that it does not take are a refusal."""
        try:
            return self.factory.supports(checked_spec(spec, self.factory))
        except BackendError as error:
            return Probe(False, str(error))


def all_cuts(num_layers: int) -> list[tuple[int, ...]]:
    """Every way to split a model in two or more; of a deep one, cuts at the ends and in the middle."""
    if num_layers > _MOST_LAYERS_FOR_ALL_CUTS:
        return [(1,), (num_layers // 2,), (num_layers - 1,), (num_layers // 3, 2 * num_layers // 3)]

    return [cuts for count in range(1, num_layers) for cuts in combinations(range(1, num_layers), count)]


def _models(folder: Path, given: Sequence[str]) -> Iterator[KitModel]:
    for model in given or [_TOY, *MODELS, *ENCODERS]:
        if model == _TOY:
            yield _model(model, write_toy_model(folder / model))
        elif model in MODELS:
            yield _model(model, write_model(model, folder / model))
        elif model in ENCODERS:
            yield _model(model, write_encoder(model, folder / model))
        elif Path(model).is_dir():
            yield _model(Path(model).name, Path(model))
        else:
            raise BackendError(
                f"there is no model {model!r}: name a folder, or some of {', '.join([_TOY, *MODELS, *ENCODERS])}"
            )


def _model(name: str, folder: Path) -> KitModel:
    config = read_model_config(folder)
    return KitModel(name, folder, config.num_layers, config.vocab_size, model_kind(config.architecture))
