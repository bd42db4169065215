"""Loads the layers of one stage from safetensors or GGUF files into the library, tensor by tensor, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from histrio.config.gguf.pointer import is_gguf_folder
from histrio.contracts.backend import Progress, StageSpec
from histrio.contracts.options import as_options
from histrio.errors import BackendError, ModelError, UnsupportedModel
from histrio.kit.checkpoint import check_range, choose_dtype, lacking, num_layers, read_config, stage_dtype
from histrio.kit.cores import num_cores
from histrio.kit.memory import main_memory
from histrio_cpu.abi import Activations, Format, KvFormat, LayerFlags, StageConfig, Storage, Tensor
from histrio_cpu.config import read_model
from histrio_cpu.experts import unstack
from histrio_cpu.library import Library, NativeStage
from histrio_cpu.model import EMBEDDING, Model, Part, stage_parts
from histrio_cpu.numa import apply_numa, check_numa
from histrio_cpu.packed_linears import Kind, PackedLinears
from histrio_cpu.quantized.layouts import assemble
from histrio_cpu.traits import CpuOptions
from histrio_cpu.weights import Bytes, MappedFiles, MappedTensor, StoredTensor, find_tensors, from_float32, to_float32

__all__ = ["StagePlan", "load_stage", "plan_stage"]

_STORAGE = {"none": Storage.KEEP, "q8": Storage.AS_Q8, "q4": Storage.AS_Q4}
_GROUP = 32
_PANEL = 64
"""The library packs groups of so many inputs, of so many outputs at a time, and fills up the last ones."""
_ROUNDED_BYTES = {"q8": _GROUP + 2, "q4": _GROUP // 2 + 4}
"""Of the weights of a group that are rounded, with its scale, for q4 also its least value."""
_GROUP_BYTES = {
    **{Format.F32: 4 * _GROUP, Format.F16: 2 * _GROUP, Format.BF16: 2 * _GROUP},
    **{Format.Q8_0: 34, Format.Q4_0: 18, Format.Q4_1: 20, Format.Q4_K: 24},
    **{Format.IQ4_NL: 18, Format.MXFP4: 18, Format.U4_ZERO: 20, Format.U4_WIDE: 24, Format.U8_MIN: 36},
    **{Format.F8_E4M3: 36},
    **dict.fromkeys((Format.Q5_1, Format.Q2_K, Format.Q5_K, Format.U8_WIDE), 48),
}
"""Of the weights of a group as they are kept. Other blocks are kept as whole numbers of 8 bits with two scales, some
with two minima beside them."""
_OTHER_BLOCK_BYTES = 40
_KV_FORMATS = {"int8": KvFormat.I8, "float32": KvFormat.F32, "float16": KvFormat.F16, "bfloat16": KvFormat.BF16}
_KV_CACHE_DTYPES = ("auto", "int8")
_PLAIN = (Format.F32, Format.F16, Format.BF16)
"""Formats of single numbers; the others have blocks."""
_UNUSED = "rotary_emb.inv_freq"
"""Old files have it; it follows from config.json."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage will be, told from configuration and headers."""

    spec: StageSpec
    options: CpuOptions
    model: Model
    dtype: str
    parts: list[Part]
    tensors: Mapping[str, StoredTensor]
    """Those of the stage."""

    @property
    def storage(self) -> Storage:
        """How linears keep their weights."""
        return _STORAGE[self.options.quantization]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the stage's weights once they are loaded."""
        return sum(map(self._part_bytes, self.parts))

    @property
    def mapped_bytes(self) -> int:
        """The share of them that is not packed: the embedding, which stays in the file unless it is quantized."""
        return sum(self._part_bytes(part) for part in self.parts if part.tensor == Tensor.EMBEDDING)

    @property
    def files(self) -> list[Path]:
        """What the stage's tensors are read of."""
        sources = (source for tensor in self.tensors.values() for source in tensor.sources)
        return list(dict.fromkeys(source.file for source in sources))

    def kept_as(self, part: Part) -> Storage:
        """How the library keeps a part."""
        return self.storage if part.may_be_rounded else Storage.KEEP

    def kept_format(self, part: Part) -> Format:
        """The format in which a part is handed over: the stored one, or the stage's 16 bits where that is wider."""
        return self._kept(part, self.tensors[part.name].format)

    def _kept(self, part: Part, stored: Format) -> Format:
        if self.norm_offset(part):
            return Format.F32
        if not part.is_linear or stored not in (Format.F32, Format.F16):
            return stored
        if self.dtype == "bfloat16":
            return Format.BF16
        return Format.F16 if self.dtype == "float16" else stored

    def converted(self, part: Part, stored: Format, data: Bytes) -> tuple[Format, Bytes]:
        """The part's bytes as they are handed over, mostly those that were read, and their format."""
        kept = self._kept(part, stored)
        if kept == stored and not self.norm_offset(part):
            return kept, data
        values = to_float32(data, stored)
        if self.norm_offset(part):
            values = values + np.float32(self.norm_offset(part))
        return kept, from_float32(values, kept)

    def norm_offset(self, part: Part) -> float:
        """What is added to the stored numbers of a part."""
        return self.model.norm_offset if part.is_norm and not self.tensors[part.name].has_one_added else 0.0

    def _part_bytes(self, part: Part) -> int:
        if part.is_vector:
            return part.columns * 4
        if not part.is_linear:
            return self.tensors[part.name].num_bytes

        group_bytes = _GROUP_BYTES.get(self.kept_format(part), _OTHER_BLOCK_BYTES)
        if part.may_be_rounded:
            group_bytes = min(_ROUNDED_BYTES.get(self.options.quantization, group_bytes), group_bytes)
        return -(-part.rows // _PANEL) * _PANEL * -(-part.columns // _GROUP) * group_bytes


def plan_stage(spec: StageSpec) -> StagePlan:
    """Read configuration and headers. Raises `ModelError` for the model, `BackendError` for settings."""
    folder = Path(spec.model)
    options = as_options(spec.options, CpuOptions, "options")
    config = read_config(folder)
    check_range(spec, num_layers(config))
    model = read_model(config, spec.max_sequence_length)
    if len(model.layers) != spec.num_layers:
        raise BackendError(f"{folder} has {len(model.layers)} layers, the plan says {spec.num_layers}")
    check_numa(options.numa)
    if spec.memory.kv_cache_dtype not in _KV_CACHE_DTYPES:
        known = " or ".join(_KV_CACHE_DTYPES)
        raise BackendError(f"kv-cache-dtype {spec.memory.kv_cache_dtype!r} is unknown; set {known}")
    if not spec.has_weights:
        return StagePlan(spec, options, model, "", [], {})

    tensors = unstack(assemble(find_tensors(folder), config))
    parts = [
        part
        for part in stage_parts(model, spec.first_layer, spec.last_layer)
        if part.name in tensors or not part.is_optional
    ]
    own = {part.name: _checked(tensors, part, folder) for part in parts}
    _check_all_used(tensors, own, spec)
    return StagePlan(spec, options, _with_pairs(model, own), _dtype(spec, folder, own), parts, own)


def load_stage(plan: StagePlan, library: Library, progress: Progress) -> NativeStage:
    """Load the stage's weights. Raises `DoesNotFit`, `ModelError` and `BackendError`, with everything freed."""
    main_memory().check_weights(plan.weight_bytes, plan.spec)
    nodes = apply_numa(plan.options.numa)
    library.use(plan.options.arch, plan.spec.threads or num_cores(), nodes)
    stage = NativeStage(library, _stage_config(plan))
    try:
        for index, layer in enumerate(plan.model.layers[plan.spec.first_layer : plan.spec.last_layer]):
            stage.layer(index, layer)
        for index, table in enumerate(plan.model.ropes):
            stage.rope(index, table.inverse_frequencies, table.scale)
        kinds = [(part, (plan.kept_format(part), plan.kept_as(part))) for part in plan.parts if part.is_linear]
        packed = PackedLinears(kinds, plan.files, library, plan.options.packed_cache_gib)
        _put_weights(stage, plan, packed, progress)
        stage.ready()
        packed.keep(stage)
    except BaseException:
        stage.close()
        raise
    return stage


def _dtype(spec: StageSpec, folder: Path, tensors: Mapping[str, StoredTensor]) -> str:
    """The number format of activations. Weights in blocks have their own: `auto` is bfloat16 beside them."""
    if not is_gguf_folder(folder) and all(tensor.is_mapped for tensor in tensors.values()):
        return stage_dtype(spec, on_cpu=True)

    formats = {tensor.format for tensor in tensors.values() if len(tensor.shape) > 1}
    stored = "bfloat16"
    if formats <= {*_PLAIN}:
        stored = "float16" if Format.F16 in formats else "bfloat16" if Format.BF16 in formats else "float32"
    return choose_dtype(spec.dtype, lambda: stored, sum(tensor.num_bytes for tensor in tensors.values()))


def _with_pairs(model: Model, tensors: Mapping[str, StoredTensor]) -> Model:
    """The model, with the layers whose stored queries and keys have neighbours rotated together."""
    layers = list(model.layers)
    for name, tensor in tensors.items():
        if tensor.rotary_pairs_adjacent:
            index = int(name.removeprefix("model.layers.").partition(".")[0])
            layers[index] = copy(layers[index])
            layers[index].flags |= LayerFlags.ROPE_INTERLEAVED
    return replace(model, layers=layers)


def _checked(tensors: Mapping[str, StoredTensor], part: Part, folder: Path) -> StoredTensor:
    """The stored tensor of a part, with the shape that it has to have."""
    tensor = tensors.get(part.name)
    if tensor is None:
        raise lacking(folder, [part.name])

    if part.tensor in (Tensor.Q_NORM, Tensor.K_NORM) and isinstance(tensor, MappedTensor):
        tensor = tensor.flat()  # Cohere has a row for each head
    _ = tensor.format  # raises for one that is not computed with
    expected = (part.stored_rows,) if part.is_vector else (part.stored_rows, part.columns)
    if tensor.shape != expected:
        raise ModelError(
            f"{tensor.file}: {tensor.name[:80]} has the shape {list(tensor.shape)}, and config.json says "
            f"{list(expected)}"
        )
    return tensor


def _check_all_used(tensors: Mapping[str, StoredTensor], own: Mapping[str, StoredTensor], spec: StageSpec) -> None:
    """Weights that nothing reads would be a model that is computed wrongly."""
    layers = tuple(f"model.layers.{layer}." for layer in range(spec.first_layer, spec.last_layer))
    for name, tensor in tensors.items():
        if name.startswith(layers) and name not in own and not name.endswith(_UNUSED):
            raise UnsupportedModel(
                f"{tensor.file} has weights {name[:80]} that the cpu backend does not know; use torch"
            )


def _stage_config(plan: StagePlan) -> StageConfig:
    model, spec = plan.model, plan.spec
    is_half = plan.dtype == "bfloat16"
    return StageConfig(
        num_layers=spec.last_layer - spec.first_layer,
        hidden=model.hidden,
        vocab=model.vocab,
        is_first=spec.is_first,
        is_last=spec.is_last,
        activations=Activations.BF16 if is_half else Activations.F32,
        kv_format=_KV_FORMATS["int8" if spec.memory.kv_cache_dtype == "int8" else plan.dtype],
        max_tokens=spec.sizes.max_num_tokens_per_batch,
        max_rows=spec.sizes.max_batch_size,
        max_logits=spec.sizes.max_num_tokens_per_batch,
        norm=model.norm,
        norm_eps=model.norm_eps,
        embedding_scale=model.embedding_scale,
        logit_scale=model.logit_scale,
        logit_softcap=model.logit_softcap,
        attention_tile=plan.options.flash_tile_size if plan.options.flash_attention else 0,
    )


def _put_weights(stage: NativeStage, plan: StagePlan, packed: PackedLinears, progress: Progress) -> None:
    """Read, convert and pack, part by part, what was not kept packed; the next one is fetched meanwhile."""
    files = MappedFiles()
    for number, (part, following) in enumerate(_with_next(plan.parts)):
        if (found := packed.find(part)) is not None:
            stage.put((part.layer, part.tensor, part.expert), found.data, found.kind, (part.rows, part.columns))
        else:
            if following is not None and not packed.has_file:
                files.expect(plan.tensors[following.name])
            packed.packs(part, _put(stage, plan, part, files))
        progress((number + 1) / len(plan.parts), part.name)


def _put(stage: NativeStage, plan: StagePlan, part: Part, files: MappedFiles) -> Kind:
    """Read a part, convert it, and have it packed; how it was handed over."""
    tensor, storage = plan.tensors[part.name], plan.kept_as(part)
    rows = part.columns if part.is_vector else part.rows
    stored, data = tensor.read(files, part.begin_row, part.begin_row + rows)
    kept, data = plan.converted(part, stored, data)
    stage.put((part.layer, part.tensor, part.expert), data, (kept, storage), (part.rows, part.columns))
    if part.name != EMBEDDING:
        files.release(tensor)
    return kept, storage


def _with_next(parts: list[Part]) -> Iterator[tuple[Part, Part | None]]:
    return zip(parts, [*parts[1:], None], strict=True)
