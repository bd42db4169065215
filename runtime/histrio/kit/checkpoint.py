"""A model folder as backends read it: its config.json, its weight files, how big they are and in which number format.

Of weights only the headers are read. `histrio.config.weights` checks those; here is what a backend makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from histrio.config.gguf.pointer import is_gguf_folder, read_pointer
from histrio.config.model_config import NUM_LAYERS_KEYS
from histrio.config.model_files import read_json_object
from histrio.config.weights import INDEX_FILE, SINGLE_FILE, read_header, weight_files
from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError, ModelError, ModelUnavailable, UnsupportedModel

__all__ = [
    "DTYPES",
    "check_range",
    "checkpoint_bytes",
    "choose_dtype",
    "find_weight_files",
    "lacking",
    "named_dtype",
    "num_layers",
    "read_config",
    "refuse_gguf",
    "stage_dtype",
    "stored_dtype",
]

DTYPES = ("float32", "float16", "bfloat16")
"""Number formats in which a stage may compute."""
SMALL_CHECKPOINT_BYTES = 128_000_000
"""Below it a CPU computes in float32 where the dtype is `auto`."""
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json without keys that are null. Raises `ModelError` with the file's name."""
    config = read_json_object(folder / "config.json")
    return {key: value for key, value in config.items() if value is not None}


def num_layers(config: Mapping[str, Any]) -> int:
    """How many layers the model, or the language model in it, has, under whichever name config.json says so.

    Raises `UnsupportedModel`.
    """
    for source in _with_text(config):
        for key in NUM_LAYERS_KEYS:
            if isinstance(source.get(key), int):
                return int(source[key])

    architectures = config.get("architectures") or [config.get("model_type")]
    raise UnsupportedModel(f"config.json of a {architectures[0]} has none of {', '.join(NUM_LAYERS_KEYS)}")


def check_range(spec: StageSpec, count: int) -> None:
    """Raise `UnsupportedModel` where the stage's layers are not a range of the model's `count` layers."""
    if 0 <= spec.first_layer < spec.last_layer <= count:
        return

    raise UnsupportedModel(
        f"layers {spec.first_layer}:{spec.last_layer} are not a range of the model's {count} layers; choose a range "
        f"within 0:{count}"
    )


def find_weight_files(folder: Path, pattern: str | None = None) -> list[Path]:
    """The safetensors files of the model, in the index's order; GGUF files are refused, since backends that read them
    ask for them by `histrio.config.gguf.pointer`.

    A backend that reads the files of certain names, with or without an index, gives the `pattern` of those names; for
    others the folder needs `model.safetensors` or an index. Raises `UnsupportedModel` for pickled weights,
    `ModelUnavailable` where files are missing, `ModelError` for a broken index.
    """
    refuse_gguf(folder)
    files = weight_files(folder)
    if pattern is not None:
        files = [file for file in files if file.match(pattern)]
    elif not (folder / SINGLE_FILE).exists() and not (folder / INDEX_FILE).exists():
        files = []
    if files:
        return files

    pickled = sorted(path.name for each in _PICKLED for path in folder.glob(each))
    if pickled:
        raise UnsupportedModel(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when read; convert to safetensors"
        )

    missing = f"neither {SINGLE_FILE} nor {INDEX_FILE}" if pattern is None else f"no {pattern}"
    raise ModelUnavailable(f"{folder} has {missing}")


def lacking(folder: Path, names: Sequence[str]) -> ModelError:
    """The refusal of a model without the weights of these names; it names the file where the first should be."""
    file = folder
    if (folder / SINGLE_FILE).exists():
        file = folder / SINGLE_FILE
    elif (folder / INDEX_FILE).exists():
        indexed = read_json_object(folder / INDEX_FILE).get("weight_map")
        file = folder / str(indexed.get(names[0], INDEX_FILE) if isinstance(indexed, dict) else INDEX_FILE)
    return ModelError(f"{file} lacks {len(names)} weights of this stage, first {names[0]}; fetch the model again")


def refuse_gguf(folder: Path) -> None:
    """Raise `UnsupportedModel`, which names the backend to take, where the folder's weights are in a GGUF file."""
    if is_gguf_folder(folder):
        raise UnsupportedModel(
            f"{read_pointer(folder).paths[0]} is a GGUF file, which the backend `cpu` runs: --backend cpu"
        )


def checkpoint_bytes(files: list[Path]) -> int:
    """Size of all files together."""
    return sum(path.stat().st_size for path in files)


def named_dtype(config: Mapping[str, Any]) -> str | None:
    """The dtype that config.json names, if it is one of `DTYPES`."""
    for source in _with_text(config):
        named = str(source.get("dtype") or source.get("torch_dtype")).removeprefix("torch.")
        if named in DTYPES:
            return named

    return None


def stored_dtype(folder: Path) -> str:
    """The number format of the model's weights, one of `DTYPES`; `auto` where they are quantized.

    It is the one that config.json names, else that of the first tensor. Raises `UnsupportedModel` for another one.
    """
    config, files = read_config(folder), find_weight_files(folder)
    if "quantization_config" in config:
        return "auto"

    named = named_dtype(config)
    if named is not None:
        return named

    stored = next((tensor.dtype for tensor in read_header(files[0]).values()), "none")
    if stored not in _STORED:
        raise UnsupportedModel(f"{files[0]}: weights are stored as {stored}; use float32, float16 or bfloat16")

    return _STORED[stored]


def stage_dtype(spec: StageSpec, *, on_cpu: bool) -> str:
    """The dtype to compute in; `auto` where the weights are quantized and the spec leaves it open.

    Raises `BackendError` for an unknown dtype, `ModelError` for the model's files.
    """
    folder = Path(spec.model)
    num_bytes = checkpoint_bytes(find_weight_files(folder))
    return choose_dtype(spec.dtype, lambda: stored_dtype(folder), num_bytes if on_cpu else None)


def choose_dtype(asked: str, stored: Callable[[], str], cpu_bytes: int | None) -> str:
    """What `asked` names; for `auto` the `stored` dtype, or float32 for a small checkpoint on a CPU.

    `cpu_bytes` is the size of the checkpoint where a CPU computes, None elsewhere. Raises `BackendError` for
    an unknown dtype.
    """
    if asked not in ("auto", *DTYPES):
        raise BackendError(f"dtype {asked[:40]!r} is unknown; use auto, {', '.join(DTYPES)}")

    if asked != "auto":
        return asked

    is_small = cpu_bytes is not None and cpu_bytes < SMALL_CHECKPOINT_BYTES
    return "float32" if is_small else stored()


def _with_text(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """config.json, and what it says of the language model in a wrapper."""
    text = config.get("text_config")
    return [config, text] if isinstance(text, dict) else [config]
