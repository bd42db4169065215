"""Early exit: the model drafts for itself with its first few layers, followed by its own last norm and head.

Elhoushi et al. 2024, "LayerSkip"; the first layers of a model that was trained for it agree with the whole more often
than those of one that was not. No second model is needed, but the layers it uses are loaded a second time: the backend
is given a folder that says the model has no more of them, with links to the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import msgspec

from histrio.contracts.backend import Probe
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.contracts.options import as_options
from histrio_speculative.model_drafter import ModelDrafter
from histrio_speculative.placement import PlacementOptions, bring_up, check_backend

__all__ = ["EarlyExitFactory", "EarlyExitOptions", "first_layers"]

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


class EarlyExitOptions(PlacementOptions, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """`[engine.drafter-options]` of `early-exit`."""

    layers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many of the model's first layers draft; None: a quarter of them."""


class EarlyExitFactory:
    """Registers as `early-exit`."""

    name = "early-exit"
    options = EarlyExitOptions

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Any model with more layers than those that draft."""
        options = _options(spec)
        if _num_drafting(options, spec) >= spec.num_layers:
            reason = f"the model has {spec.num_layers} layers, and {_num_drafting(options, spec)} of them shall draft"
            return Probe(False, reason, "lower drafter-options.layers, or choose another drafter")
        return check_backend(options.backend, tools)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> ModelDrafter:
        """Load the layers. Raises `ModelError`, `BackendError`."""
        options = _options(spec)
        num_layers = _num_drafting(options, spec)
        with first_layers(Path(spec.model), num_layers) as folder:
            return bring_up(str(folder), num_layers, spec.vocab_size, options, spec, tools)


@contextmanager
def first_layers(folder: Path, num_layers: int) -> Iterator[Path]:
    """A folder that is the model's first layers with its head: a configuration of its own and links to all else."""
    config = json.loads((folder / "config.json").read_bytes())
    with TemporaryDirectory(prefix="histrio-early-exit-") as name:
        shorter = Path(name)
        for file in folder.iterdir():
            if file.is_file() and file.name != "config.json":
                (shorter / file.name).symlink_to(file.resolve())
        (shorter / "config.json").write_text(json.dumps(_shortened(config, num_layers)))
        yield shorter


def _shortened(config: dict[str, Any], num_layers: int) -> dict[str, Any]:
    """The configuration of a model with so many layers: also of lists that have an entry for each."""
    if isinstance(config.get("text_config"), dict):
        return {**config, "text_config": _shortened(config["text_config"], num_layers)}

    num_all = next((config[name] for name in _COUNTS if name in config), 0)
    shorter: dict[str, Any] = {name: num_layers for name in _COUNTS if name in config}
    for name, value in config.items():
        if isinstance(value, list) and len(value) == num_all:
            shorter[name] = value[:num_layers]
    return {**config, **shorter}


def _num_drafting(options: EarlyExitOptions, spec: DrafterSpec) -> int:
    return options.layers or max(spec.num_layers // 4, 1)


def _options(spec: DrafterSpec) -> EarlyExitOptions:
    return as_options(spec.options, EarlyExitOptions, "engine.drafter-options")
