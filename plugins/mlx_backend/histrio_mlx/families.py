"""What each of mlx-lm's model types can do on this backend: found by `histrio_mlx.survey`, shipped as `families.json`.

Nothing in the record is anyone's opinion: each yes stands for a run that agreed with mlx-lm's own model, and whose
control did not. Where transformers has the family too, it is the judge of what one stage says; a family that it
contradicts does not run. A type that isn't in the record was never run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["PATH", "Family", "Record", "assumed", "family", "family_name", "load_record"]

PATH = Path(__file__).with_name("families.json")
_assumed: dict[str, Family] = {}
_WITH_SIDE_INPUTS = ("gemma4", "gemma4_text")
_SIDE_INPUTS = ("hidden_size_per_layer_input", "num_kv_shared_layers")
"""The small Gemma 4 models have inputs for each layer, and layers that share keys; the large ones have neither."""


class Family(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdicts on one model type; no field is guessed from another."""

    runs: bool = False
    """One stage with all layers gives mlx-lm's own logits, prompt and decode."""
    splittable: bool = False
    """Two stages give the logits of one, at every cut of `cuts`."""
    cuts: list[int] = []
    """At which that was found, of a model with `num_layers`."""
    num_layers: int = 0
    """Layers of the model that was run."""
    batchable: bool = False
    """Rows of different lengths in one step give the logits that each gives by itself."""
    rewindable: bool = False
    """A row that starts again at an earlier position gives the logits of one that never went further."""
    parts: list[str] = []
    """What its layers hand on beside the residual stream, by the names of `histrio_mlx.splice.Parts`."""
    metal_only: bool = False
    """Whether it uses Metal kernels, which run on Apple's GPUs only; then no other verdict could be found here."""
    reason: str = ""
    """What stands in the way of a verdict that is not yes."""
    judge: dict[str, float] = {}
    """Published configuration → largest difference of logits from transformers' own, relative to the largest."""
    judged_keys: list[str] = []
    """Keys of those configurations that had an effect in them, by `histrio_mlx.refusals.odd_keys`."""
    errors: dict[str, float] = {}
    """Check → largest difference of logits, relative to the largest logit."""
    controls: dict[str, float] = {}
    """Check → the smallest difference that its control made."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The file: all families, and the version of mlx-lm that they were found with."""

    mlx_lm: str
    aliases: dict[str, str]
    """Model types that mlx-lm runs with the code of another; `type/architecture` where only that one is."""
    families: dict[str, Family]


def family(config: Mapping[str, Any]) -> Family | None:
    """What was found for models with this config.json; None if no such model was ever run."""
    record = load_record()
    name = family_name(config, record.aliases)
    found = _assumed.get(name) or record.families.get(name)
    # The record comes from a machine without Metal; where there is one, such a family was never run.
    return None if found is not None and found.metal_only and sys.platform == "darwin" else found


def family_name(config: Mapping[str, Any], aliases: Mapping[str, str]) -> str:
    """The record's name: mlx-lm's module, and what tells apart models of one module that differ in kind."""
    model_type = str(config.get("model_type", ""))
    architecture = str((config.get("architectures") or [""])[0])
    name = aliases.get(f"{model_type}/{architecture}") or aliases.get(model_type, model_type)
    if name in _WITH_SIDE_INPUTS:
        text = config.get("text_config") or config
        return name if any(text.get(key, True) for key in _SIDE_INPUTS) else f"{name}/plain"

    return name


@contextmanager
def assumed(name: str, verdict: Family) -> Iterator[None]:
    """Within the context the record says this of a family: so the survey tries a family that has no record yet."""
    before = dict(_assumed)
    _assumed[name] = verdict
    try:
        yield
    finally:
        _assumed.clear()
        _assumed.update(before)


@cache
def load_record() -> Record:
    """The shipped record."""
    return msgspec.json.decode(PATH.read_bytes(), type=Record)
