"""Whether a model can be served as planned, found out by two tokens that nothing is computed of.

A stage goes through it before its weights are read. `rehearse` does no more than that: what loading would refuse is
known before anything is started.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from histrio.contracts.backend import Probe, StageSpec
from histrio_mlx.cache import StageCaches, has_windows
from histrio_mlx.config import layer_windows
from histrio_mlx.devices import choose_device, measure
from histrio_mlx.dry_run import DryRun
from histrio_mlx.loader import StageModel, make_stage
from histrio_mlx.refusals import overlooked_window
from histrio_mlx.traits import check_placement

__all__ = ["DTYPE_NAMES", "rehearse", "try_stage"]

DTYPE_NAMES = {mx.float32: "float32", mx.float16: "float16", mx.bfloat16: "bfloat16"}


def try_stage(stage: StageModel, spec: StageSpec) -> tuple[DryRun, StageCaches]:
    """What the stage's layers store. Raises `UnsupportedModel` for what a stage would get wrong."""
    dry_run = DryRun(stage.relay, stage.config, spec, stage.dtype)
    used = dry_run.used_caches()
    return dry_run, StageCaches(used, _common_window(stage, used, spec))


def rehearse(spec: StageSpec) -> Probe:
    """What the stage would be: its dtype and the bytes of its weights.

    Raises `ModelError` and `BackendError` for what loading would refuse, but for what does not fit.
    """
    device = choose_device(spec.device)
    family = check_placement(spec)
    stage = make_stage(spec, device, is_splittable=family is not None and family.splittable)
    try_stage(stage, spec)
    dtype, total = DTYPE_NAMES[stage.dtype], measure(device).total_bytes
    return Probe(available=True, dtype=dtype, weight_bytes=stage.param_bytes, device_bytes=total)


def _common_window(stage: StageModel, used: list[Any], spec: StageSpec) -> int | None:
    """The sliding window of a model that mlx-lm runs without one. Raises `UnsupportedModel` if layers differ in it."""
    windows = layer_windows(stage.config)
    narrow = [window for window in windows if window is not None and window < spec.max_sequence_length]
    if not narrow or any(has_windows(cache) for cache in used):
        return None

    if len(set(windows)) == 1:
        return narrow[0]

    raise overlooked_window(stage.config, min(narrow))
