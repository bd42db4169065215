"""Loads the weights of one stage with mlx-lm's own loader, and no others.

mlx-lm reads weights lazily: a tensor costs nothing until it is evaluated. So the whole checkpoint goes through the
model's `sanitize` (renamed, merged and dequantized weights), then the model is spliced, what belongs to other stages is
dropped, and layer by layer the rest is evaluated.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from histrio.contracts.backend import Progress, StageSpec
from histrio.errors import BackendError, UnsupportedModel
from histrio.kit.checkpoint import checkpoint_bytes, choose_dtype, find_weight_files, lacking, named_dtype, num_layers
from histrio_mlx.adapters import apply_adapter
from histrio_mlx.checkpoint import WEIGHT_FILES
from histrio_mlx.compat import SwitchLinear, load_model, model_classes, modules_of, named_parameters
from histrio_mlx.config import Config, normalise, read_config
from histrio_mlx.corrections import corrected_class
from histrio_mlx.devices import measure
from histrio_mlx.splice import Relay, splice

__all__ = ["StageModel", "load_stage", "make_stage"]

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_MISSING = re.compile(r"Missing \d+ parameters: \n(?P<names>.*)", re.DOTALL)
"""How mlx names weights that no file has."""


@dataclass
class StageModel:
    """A spliced model with its own weights in place."""

    config: Config
    """As mlx-lm reads it."""
    model: Any
    relay: Relay
    dtype: mx.Dtype
    param_bytes: int


def load_stage(spec: StageSpec, device: mx.Device, *, is_splittable: bool, progress: Progress) -> StageModel:
    """Read config and weights of the stage's layers. Raises `UnsupportedModel`, `DoesNotFit`, `ModelUnavailable`."""
    stage = make_stage(spec, device, is_splittable=is_splittable)
    measure(device).check_weights(stage.param_bytes, spec)
    _evaluate(stage.model, spec, progress)
    return stage


def make_stage(spec: StageSpec, device: mx.Device, *, is_splittable: bool) -> StageModel:
    """The stage's model with weights that nothing has read yet. Raises `UnsupportedModel`, `ModelUnavailable`."""
    folder = Path(spec.model)
    config = normalise(read_config(folder), spec.max_sequence_length)
    files = find_weight_files(folder, WEIGHT_FILES)
    if num_layers(config) != spec.num_layers:
        raise BackendError(f"{folder} has {num_layers(config)} layers, the plan says {spec.num_layers}")

    model, relay = _read(folder, config, spec, is_splittable)
    if spec.adapter is not None:
        apply_adapter(model, Path(spec.adapter), spec)
    model.eval()
    dtype = _choose_dtype(spec, config, model, checkpoint_bytes(files) if device == mx.Device(mx.cpu) else None)
    _cast(model, dtype)
    param_bytes = sum(array.nbytes for _, array in named_parameters(model))
    return StageModel(config, model, relay, dtype, param_bytes)


def _read(folder: Path, config: Config, spec: StageSpec, is_splittable: bool) -> tuple[Any, Relay]:
    found: list[Relay] = []

    def stage_classes(config: Config) -> tuple[Any, Any]:
        model_class, arguments = model_classes(config)
        _check_rope(config, arguments)
        return _stage_class(corrected_class(model_class, config), spec, is_splittable, found), arguments

    try:
        model, _ = load_model(folder, lazy=True, model_config=config, get_model_classes=stage_classes)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        if missing := _MISSING.search(str(error)):
            raise lacking(folder, missing["names"].rstrip(".").replace(",", " ").split()) from error
        raise UnsupportedModel(f"{folder}: mlx-lm can't load it: {type(error).__name__}: {error}") from error

    return model, found[0]


def _check_rope(config: Config, arguments: Any) -> None:
    parameters = config.get("rope_parameters")
    known = inspect.signature(arguments).parameters
    if not isinstance(parameters, dict) or "rope_parameters" in known:
        return

    kinds = [value for value in parameters.values() if isinstance(value, dict)]
    if any(kind != kinds[0] for kind in kinds) and "rope_local_base_freq" not in known:
        raise UnsupportedModel(
            f"config.json gives a {config['model_type']} rotary positions for each kind of layer; mlx-lm has but one"
        )


def _stage_class(model_class: Any, spec: StageSpec, is_splittable: bool, found: list[Relay]) -> Any:
    """A subclass whose `sanitize`, which mlx-lm calls between reading and placing weights, splices the model."""

    class Stage(model_class):  # type: ignore[misc]
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            weights = super().sanitize(weights)
            before = _modules_with_parameters(self)
            found.append(splice(self, spec) if is_splittable else Relay(self, None))
            foreign = before - _modules_with_parameters(self)
            return {name: array for name, array in weights.items() if name.rpartition(".")[0] not in foreign}

    Stage.__name__ = Stage.__qualname__ = model_class.__name__
    Stage.__module__ = model_class.__module__
    return Stage


def _modules_with_parameters(model: Module) -> set[str]:
    return {name.rpartition(".")[0] for name, _ in named_parameters(model)}


def _choose_dtype(spec: StageSpec, config: Config, model: Module, cpu_bytes: int | None) -> mx.Dtype:
    """`cpu_bytes` is the checkpoint's size where a CPU computes."""
    dtype = choose_dtype(spec.dtype, lambda: named_dtype(config) or _first_dtype(model), cpu_bytes)
    needs_float32 = cpu_bytes is not None and any(type(module) is SwitchLinear for module in modules_of(model))
    if needs_float32 and spec.dtype not in ("auto", "float32"):
        raise BackendError(
            f"on a CPU, MLX computes experts that are not quantized in float32 only, not in {spec.dtype}: set dtype to "
            "auto or float32"
        )

    return mx.float32 if needs_float32 else _DTYPES[dtype]


def _first_dtype(model: Module) -> str:
    stored = [name for _, array in named_parameters(model) for name, dt in _DTYPES.items() if array.dtype == dt]
    return stored[0] if stored else "float32"


def _cast(model: Module, dtype: mx.Dtype) -> None:
    """Floating weights to `dtype`, still lazily; what a model wants to keep as it is stays."""
    is_cast = getattr(model, "cast_predicate", lambda name: True)
    changed = [
        (name, array.astype(dtype))
        for name, array in named_parameters(model)
        if mx.issubdtype(array.dtype, mx.floating) and array.dtype != dtype and is_cast(name)
    ]
    if changed:
        model.load_weights(changed, strict=False)


def _evaluate(model: Any, spec: StageSpec, progress: Progress) -> None:
    """Read the weights, a layer at a time: merging experts never holds a second layer's parts."""
    own = list(getattr(model, "layers", []))[spec.first_layer : spec.last_layer]
    for index, layer in enumerate(own):
        mx.eval(layer.parameters())
        progress((index + 1) / (len(own) + 1), f"layer {spec.first_layer + index + 1} of {spec.num_layers}")
    mx.eval(model.parameters())
    mx.clear_cache()
    progress(1.0, "ready")
