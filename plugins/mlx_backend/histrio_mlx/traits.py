"""What an MLX stage is capable of, and whether it can hold these layers of this model."""

from __future__ import annotations

from pathlib import Path

from histrio.contracts.backend import Capability, StageSpec
from histrio.errors import UnsupportedModel
from histrio.kit.checkpoint import check_range, num_layers
from histrio_mlx.config import normalise, read_config
from histrio_mlx.families import Family, family_name, load_record
from histrio_mlx.families import family as find_family
from histrio_mlx.refusals import check_config
from histrio_mlx.sources import find_source

__all__ = ["BLOCK_SIZES", "capabilities", "check_placement"]

BLOCK_SIZES = (4, 8, 16, 32, 64, 128)
"""Tokens per block; any would do."""
_OF_BLOCKS = (Capability.REWIND, Capability.PREFIX_SHARE, Capability.COPY_BLOCKS)


def capabilities(*, rewindable: bool) -> list[Capability]:
    """What a stage can do; one that keeps a recurrent state can neither rewind a row nor share a prefix."""
    blocks = _OF_BLOCKS if rewindable else ()
    return [Capability.BATCH, *blocks, Capability.ALL_POSITION_LOGITS]


def check_placement(spec: StageSpec) -> Family | None:
    """The record of the model's family, None for one that was never tested, which runs unsplit only.

    Raises `UnsupportedModel`.
    """
    config = read_config(Path(spec.model))
    normal = normalise(config, spec.max_sequence_length)
    model_type = str(config["model_type"])
    check_range(spec, num_layers(config))
    module = family_name(config, load_record().aliases).partition("/")[0]
    family, source = find_family(config), find_source(module)
    if family is None and source is None:
        raise UnsupportedModel(f"mlx-lm has no model of type {model_type!r}")

    if family is not None and not family.runs:
        raise UnsupportedModel(f"{model_type} does not run: {family.reason}")

    check_config(normal, spec, family, source)
    if spec.is_first and spec.is_last:
        return family

    if family is None:
        raise UnsupportedModel(f"{model_type} was never tested in parts; run it in one stage")

    if not family.splittable:
        raise UnsupportedModel(f"{model_type} can't be split: {family.reason}; run it in one stage")

    return family
