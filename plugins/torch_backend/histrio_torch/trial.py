"""Whether a model can be served as planned, found out by a few tokens through its stage, with weights or without.

A stage that was loaded goes through it before its first step. `rehearse` does the same on torch's meta device, where
tensors have shapes and no numbers: what loading would refuse is known before anything is started or read.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from torch import nn

from histrio.config.weights import read_header
from histrio.contracts.backend import Probe, StageSpec
from histrio.errors import UnsupportedModel
from histrio.kit.checkpoint import find_weight_files, read_config, stage_dtype
from histrio_torch.attention import ATTENTION_NAME
from histrio_torch.blocks import LayerShape
from histrio_torch.calls import hidden_arguments, run_layers, scored, token_arguments
from histrio_torch.devices import choose_device, measure
from histrio_torch.dry_run import NUM_TRIED_TOKENS, check_side_channels, record_shapes
from histrio_torch.encoder import make_encoder, require_encoder_weights
from histrio_torch.encoder_families import is_encoder, kind_of
from histrio_torch.loader import StageModel, count_weights, make_spliced, prepare, require_weights, store_latents
from histrio_torch.traits import capabilities_of

__all__ = ["rehearse", "trial_step"]


def trial_step(stage: StageModel, spec: StageSpec) -> dict[int, LayerShape]:
    """What each of the stage's layers stores per token. Raises `UnsupportedModel` for what a stage would get wrong."""
    own = range(spec.first_layer, spec.last_layer)
    is_whole = spec.is_first and spec.is_last
    name = type(stage.model).__name__
    guards = [] if is_whole else [check_side_channels(stage.structure.layers[index], name) for index in own]
    try:
        return record_shapes(stage.model, lambda: _run(stage, spec), spec)
    finally:
        for guard in guards:
            guard.remove()


def rehearse(spec: StageSpec) -> Probe:
    """What the stage would be: its dtype and the bytes of its weights, where its weights, which say so, are here.

    Raises `ModelError` and `BackendError` for what loading would refuse, but for the numbers in the weights.
    """
    device = choose_device(spec.device)
    config = read_config(Path(spec.model))
    num_weights = _make_without_weights(spec) if is_encoder(config) else _try_without_weights(spec)
    told = Probe(available=True, capabilities=capabilities_of(config), device_bytes=measure(device).total_bytes)
    if not spec.has_weights:
        return told
    if is_encoder(config):
        require_encoder_weights(Path(spec.model))
    else:
        require_weights(spec)
    dtype = stage_dtype(spec, on_cpu=device.type == "cpu")
    return msgspec.structs.replace(told, dtype=dtype, weight_bytes=num_weights * getattr(torch, dtype).itemsize)


def _make_without_weights(spec: StageSpec) -> int:
    """How many numbers an encoder's weights are."""
    model = make_encoder(Path(spec.model))
    if spec.has_weights:
        _check_shapes(model, Path(spec.model))
    return count_weights(model)


def _try_without_weights(spec: StageSpec) -> int:
    """How many numbers the stage's weights are."""
    model, relay = make_spliced(Path(spec.model), spec)
    if spec.has_weights:
        _check_shapes(model, Path(spec.model))
    structure = prepare(model, spec)
    num_weights = count_weights(model)
    model.config._attn_implementation = ATTENTION_NAME
    store_latents(model)
    # Some products of experts exist in this dtype only.
    dtype = torch.bfloat16
    stage = StageModel(model.to(dtype), structure, relay, dtype, torch.device("meta"), param_bytes=0)
    try:
        trial_step(stage, spec)
    except RuntimeError:
        # Not every operator knows the meta device, and experts are looked up by numbers that aren't there.
        return num_weights
    return num_weights


def _check_shapes(model: nn.Module, folder: Path) -> None:
    """Tensors that the files and the model call by the same name are of the same shape."""
    made = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for file in find_weight_files(folder):
        for name, stored in read_header(file).items():
            if made.get(name, stored.shape) != stored.shape:
                raise UnsupportedModel(
                    f"{file}: {name} has the shape {stored.shape}, but config.json makes it {made[name]}"
                )


def _run(stage: StageModel, spec: StageSpec) -> None:
    positions = torch.arange(NUM_TRIED_TOKENS, device=stage.device)[None]
    if spec.is_first:
        arguments = token_arguments(torch.zeros_like(positions), positions)
    else:
        hidden = torch.ones(*positions.shape, stage.model.config.hidden_size, dtype=stage.dtype, device=stage.device)
        arguments = hidden_arguments(stage, hidden, positions)
    if not spec.is_last:
        run_layers(stage, arguments)
    elif kind_of(read_config(Path(spec.model))) != "generate":
        scored(stage, run_layers(stage, arguments))
    else:
        # Some models look at which tokens' logits are to be computed before their layers are through.
        stage.model(**arguments, logits_to_keep=positions[0, -1:])
