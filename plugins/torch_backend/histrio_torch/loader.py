"""Loads the weights of one stage with transformers' own loader, and no others.

The loader is given a subclass of the model's class whose constructor splices the model (see `splice.py`) while it is
still on the meta device. So other layers are never allocated, their bytes never read, and what only transformers knows
still happens: renamed and merged weights, tied heads, parts kept in float32, buffers that no checkpoint holds
(inv_freq, Gemma's embedding scale).
"""

from __future__ import annotations

import inspect
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histrio.config.model_kind import ModelKind
from histrio.config.weights import read_header
from histrio.contracts.backend import Progress, StageSpec
from histrio.errors import BackendError, DoesNotFit, UnsupportedModel
from histrio.kit.checkpoint import lacking, read_config, stage_dtype
from histrio_torch.attention import ATTENTION_NAME, register_attention
from histrio_torch.devices import measure
from histrio_torch.encoder_families import kind_of
from histrio_torch.families import check_config, has_only_attention
from histrio_torch.fused import fuse_norms
from histrio_torch.latent import LATENT_ATTENTION, absorb_latents, register_latent_attention
from histrio_torch.linear import pack_linears
from histrio_torch.rope import fix_rope
from histrio_torch.splice import Relay, Structure, drop_embeddings, find_structure, splice

__all__ = [
    "StageModel",
    "count_weights",
    "described",
    "load_stage",
    "loading",
    "make_spliced",
    "prepare",
    "read_weights",
    "require_weights",
    "store_latents",
]

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": getattr(torch, f"float{bits}") for bits in (16, 32, 64)},
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""What headers call number formats."""
_NO_OTHERS = re.compile(r"(?!)")
_READ_SHARE = 0.5
"""Share of the loading time that reading takes; the rest is packing."""


@dataclass
class StageModel:
    """A spliced model with its own weights in place."""

    model: Any
    structure: Structure
    relay: Relay
    dtype: torch.dtype
    device: torch.device
    param_bytes: int


@dataclass(frozen=True)
class _Target:
    """What is to be loaded, and where it goes."""

    spec: StageSpec
    dtype: torch.dtype
    device: torch.device

    @property
    def is_described(self) -> bool:
        """Nothing is read: tensors are as their files' headers describe them."""
        return self.device.type == "meta"


_LOADING = threading.Lock()
"""transformers changes its own classes while it loads; two stages of one process that did so at a time would leave them
changed (weights untied, for one)."""


def load_stage(spec: StageSpec, device: torch.device, progress: Progress) -> StageModel:
    """Read config and weights of the stage's layers. Raises `UnsupportedModel`, `DoesNotFit`, `ModelUnavailable`."""
    folder = Path(spec.model)
    check_config(read_config(folder))
    dtype: torch.dtype = getattr(torch, stage_dtype(spec, on_cpu=device.type == "cpu"))
    register_attention()
    register_latent_attention()
    model_class, model_config = _model_class(folder)
    if model_config.num_hidden_layers != spec.num_layers:
        raise BackendError(f"{folder} has {model_config.num_hidden_layers} layers, the plan says {spec.num_layers}")

    target = _Target(spec, dtype, device)
    with loading():
        model = read_weights(_stage_class(model_class, target, progress), folder, model_config, dtype, ATTENTION_NAME)
    stage = _finish(model, target)
    _settle(stage, progress)
    return stage


def require_weights(spec: StageSpec) -> None:
    """Load the stage without reading a weight: tensors of the shapes in the files' headers go through the loader of
    transformers, which says what it misses. What else it refuses is left to the start. Raises `ModelError`.
    """
    folder, device = Path(spec.model), torch.device("meta")
    model_class, config = _model_class(folder)
    target = _Target(spec, torch.float32, device)
    with loading():
        try:
            read_weights(_stage_class(model_class, target, _untold), folder, config, target.dtype, ATTENTION_NAME)
        except UnsupportedModel:
            return


def described(model_class: Any) -> Any:
    """The class of a whole model, whose weights are as their files' headers describe them: none is read."""

    class Described(model_class):  # type: ignore[misc]
        @staticmethod
        def _load_pretrained_model(model: Any, state_dict: Any, files: list[str], settings: Any, **kwargs: Any) -> Any:
            settings = replace(settings, device_map={"": torch.device("meta")})
            with _described_tensors(files) as tensors:
                return model_class._load_pretrained_model(model, tensors, files, settings, **kwargs)

    # transformers looks some things up by the class's name
    Described.__name__ = Described.__qualname__ = model_class.__name__
    Described.__module__ = model_class.__module__
    return Described


def make_spliced(folder: Path, spec: StageSpec) -> tuple[Any, Relay]:
    """The stage's model without memory, on torch's meta device. Raises `UnsupportedModel`."""
    register_attention()
    register_latent_attention()
    model_class, config = _model_class(folder)
    with loading(), torch.device("meta"):
        try:
            model = model_class(config)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"{folder}: transformers can't make this model: {error!r}") from error

    return model, splice(model, spec)


def prepare(model: Any, spec: StageSpec) -> Structure:
    """Drop what only other stages call, and settle what must not depend on a batch. Raises `UnsupportedModel`."""
    structure = find_structure(model, spec.num_layers)
    if not spec.is_first:
        drop_embeddings(model, structure)
    fix_rope(model, spec.max_sequence_length)
    model.requires_grad_(False)
    return structure


def store_latents(model: Any) -> None:
    """Let latents reach the blocks as they are, where the model has them."""
    if absorb_latents(model):
        model.config._attn_implementation = LATENT_ATTENTION


def count_weights(model: nn.Module) -> int:
    """How many numbers the model's weights are, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _model_class(folder: Path) -> tuple[Any, Any]:
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        MODEL_MAPPING,
        AutoConfig,
    )

    kind = kind_of(read_config(folder))
    classes: dict[ModelKind, Any] = {
        "generate": MODEL_FOR_CAUSAL_LM_MAPPING,
        "embed": MODEL_MAPPING,
        "score": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    }
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model_class: Any = classes[kind][type(config)]
    except (KeyError, ValueError) as error:
        raise UnsupportedModel(f"{folder}: transformers can't make this model: {error}") from None

    if (getattr(config, "pad_token_id", None) or 0) >= (getattr(config, "vocab_size", None) or 0):
        config.pad_token_id = None  # nothing is padded here, and torch refuses one beyond the embedding
    name = model_class.__name__
    if getattr(model_class, "_is_stateful", False) and not has_only_attention(config.to_dict()):
        raise UnsupportedModel(f"{name} is not supported by the torch backend: it keeps a state that blocks can't hold")

    if kind == "generate" and "logits_to_keep" not in inspect.signature(model_class.forward).parameters:
        raise UnsupportedModel(f"{name} is not supported: it can't compute the logits of chosen tokens only")

    return model_class, config


def _stage_class(model_class: Any, target: _Target, progress: Progress) -> Any:
    """A subclass that drops what other stages own, checks the memory, and reads only what is left."""

    class Stage(model_class):  # type: ignore[misc]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            self.histrio_relay = splice(self, target.spec)
            if not target.is_described:
                measure(target.device).check_weights(count_weights(self) * target.dtype.itemsize, target.spec)

        @staticmethod
        def _load_pretrained_model(model: Any, state_dict: Any, files: list[str], settings: Any, **kwargs: Any) -> Any:
            # Given to `from_pretrained`, the device would call for the package accelerate.
            settings = replace(settings, device_map={"": target.device})
            others = _other_layers(model, target.spec)
            opened = (
                _described_tensors(files, others) if target.is_described else _open_tensors(files, others, progress)
            )
            with opened as tensors:
                return model_class._load_pretrained_model(model, tensors, files, settings, **kwargs)

    # transformers looks some things up by the class's name
    Stage.__name__ = Stage.__qualname__ = model_class.__name__
    Stage.__module__ = model_class.__module__
    return Stage


def read_weights(
    stage_class: Any, folder: Path, config: Any, dtype: torch.dtype, attention: str | None, unused: str = ""
) -> Any:
    """The model in main memory, unless its class says otherwise, but for weights whose names begin with `unused`.

    `attention` is the name of an implementation, None for transformers' choice. Raises `DoesNotFit`, `ModelError`.
    """
    try:
        model, report = stage_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(f"{folder}: out of memory while weights were loaded: {error}") from error
    except (RuntimeError, OSError, ValueError) as error:
        raise UnsupportedModel(f"{folder}: its weights don't fit its config.json: {error}") from error

    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    missing = [key for key in missing if not (unused and key.startswith(unused))]
    if missing:
        raise lacking(folder, missing)

    return model


def _finish(model: Any, target: _Target) -> StageModel:
    relay: Relay = vars(model).pop("histrio_relay")
    structure = prepare(model, target.spec)
    model.to(target.device)
    param_bytes = count_weights(model) * target.dtype.itemsize
    store_latents(model)
    return StageModel(model, structure, relay, target.dtype, target.device, param_bytes)


def _settle(stage: StageModel, progress: Progress) -> None:
    """Put faster modules in place; on a CPU linear layers get oneDNN's order, which takes as long as reading."""
    fuse_norms(stage.model)
    own = [layer for layer in stage.structure.layers if next(layer.parameters(), None) is not None]
    for index, layer in enumerate(own if stage.device.type == "cpu" else []):
        pack_linears(layer)
        progress(_READ_SHARE + (1 - _READ_SHARE) * index / len(own), f"layer {index + 1} of {len(own)}")
    if stage.device.type == "cpu":
        pack_linears(stage.model)
    progress(1.0, "ready")


def _other_layers(model: Any, spec: StageSpec) -> re.Pattern[str]:
    """Matches names of weights that belong to layers of other stages."""
    own = "|".join(str(index) for index in range(spec.first_layer, spec.last_layer))
    name = find_structure(model, spec.num_layers).layers_name
    return re.compile(rf"^(?:\w+\.)*?{name}\.(?!(?:{own})\.)\d+\.")


def _untold(_fraction: float, _what: str) -> None:
    """Progress that is not told to anything."""


class _CountedSlice:
    """A tensor in a safetensors file that is read when indexed, and says so."""

    def __init__(self, handle: Any, name: str, told: Any) -> None:
        self._handle, self._name, self._told = handle, name, told
        self._tensor = handle.get_slice(name)

    def __getitem__(self, index: Any) -> torch.Tensor:
        """A part of the tensor; the whole of it comes in one read, which is faster than the same as a slice."""
        self._told(self._name)
        is_whole = index is Ellipsis or index == slice(None)
        part: torch.Tensor = self._handle.get_tensor(self._name) if is_whole else self._tensor[index]
        return part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


@contextmanager
def _open_tensors(files: list[str], others: re.Pattern[str], progress: Progress) -> Iterator[dict[str, Any]]:
    """Name → unread tensor, for all tensors but those of other layers."""
    from safetensors import safe_open

    tensors: dict[str, Any] = {}
    num_read = 0

    def told(name: str) -> None:
        nonlocal num_read
        num_read += 1
        progress(_READ_SHARE * min(num_read / len(tensors), 1.0), name)

    # Read, not mapped: weights that are packed and dropped would stay resident as long as one tensor of the file lives.
    handles: list[Any] = [safe_open(file, framework="pt", device="cpu", backend="pread") for file in files]
    for handle in handles:
        own = [name for name in handle.keys() if not others.match(name)]
        tensors.update({name: _CountedSlice(handle, name, told) for name in own})
    try:
        yield tensors
    finally:
        for handle in handles:
            handle.__exit__(None, None, None)


@contextmanager
def _described_tensors(files: list[str], others: re.Pattern[str] = _NO_OTHERS) -> Iterator[dict[str, Any]]:
    """The same without memory. Raises `UnsupportedModel` for number formats that torch has no name for."""
    tensors: dict[str, Any] = {}
    for file in files:
        for name, stored in read_header(Path(file)).items():
            if stored.dtype not in _DTYPES:
                raise UnsupportedModel(f"{file}: {name} is stored as {stored.dtype}")
            if not others.match(name):
                tensors[name] = torch.empty(stored.shape, dtype=_DTYPES[stored.dtype], device="meta")
    yield tensors


@contextmanager
def loading() -> Iterator[None]:
    """While a model is made or loaded: no other in this process is, nothing of transformers comes on the terminal, and
    tensors are read one after another on this thread."""
    with _LOADING, _quiet_transformers():
        yield


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging as module

    logging: Any = module
    setting, had_bar, before = logging.get_verbosity(), logging.is_progress_bar_enabled(), os.environ.copy()
    # One by one: progress is told from this thread, and merging experts never holds a second layer's parts.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(setting)
        if had_bar:
            logging.enable_progress_bar()
        if "HF_DEACTIVATE_ASYNC_LOAD" not in before:
            del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
