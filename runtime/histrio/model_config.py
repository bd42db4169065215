"""What the core reads of a model: config.json, generation_config.json and tokenizer_config.json, without transformers.

The sources disagree in practice: a chat model's text ends at ids that only one of the three files names, so all are
joined. Sampling defaults follow generation_config.json as vLLM does: what it sets is the default of a request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from histrio.errors import ModelError, UnsupportedModel

__all__ = ["ModelConfig", "read_model_config"]

_SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_NUM_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_MAX_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "model_max_length")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A model's shape and habits, as its files state them."""

    architecture: str
    """First entry of `architectures`, e.g. `Qwen3ForCausalLM`."""
    num_layers: int
    vocab_size: int
    max_positions: int
    """Longest context in tokens."""
    dtype: str | None = None
    """Format of the checkpoint by its own account."""
    bos_id: int | None = None
    eos_ids: list[int] = []
    """Every id that ends a text, sorted."""
    default_sampling: dict[str, Any] = {}
    """What generation_config.json sets of temperature, top_k, top_p, min_p, repetition_penalty."""
    own_code: list[str] = []
    """Python files the model would like to be run; they never are."""


def read_model_config(folder: Path) -> ModelConfig:
    """Read the model's files. Raises `ModelError` with the file's name, or `UnsupportedModel`."""
    config = _read_json(folder / "config.json")
    generation = _read_json(folder / "generation_config.json", optional=True)
    tokenizer = _read_json(folder / "tokenizer_config.json", optional=True)
    text = config.get("text_config")
    text = {**config, **text} if isinstance(text, dict) else config
    reader = _Reader(folder / "config.json", text)
    return ModelConfig(
        architecture=_architecture(folder, config),
        num_layers=reader.positive(_NUM_LAYERS),
        vocab_size=reader.positive(("vocab_size",)),
        max_positions=_max_positions(reader.positive(_MAX_POSITIONS), text),
        dtype=_dtype(text),
        bos_id=_bos_id(folder, tokenizer, text),
        eos_ids=_eos_ids(folder, (config, text, generation), tokenizer),
        default_sampling=_default_sampling(folder, generation),
        own_code=_own_code(config, tokenizer),
    )


def _read_json(file: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        if optional:
            return {}
        raise ModelError(f"{file} is missing") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}") from None

    if not isinstance(value, dict):
        raise ModelError(f"{file} holds no JSON object")
    return value


class _Reader:
    """Positive numbers of one file, under any of several names."""

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self._file = file
        self._values = values

    def positive(self, names: tuple[str, ...]) -> int:
        """The first of `names` that is there."""
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelError(f"{self._file}: {name} must be a positive integer")
            return value
        raise UnsupportedModel(f"{self._file} has no {names[0]}, so this is not a text model that can be served")


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures") or []
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise UnsupportedModel(f"{folder / 'config.json'} names no architecture (`architectures`)")

    return names[0]


def _dtype(text: dict[str, Any]) -> str | None:
    dtype = text.get("dtype") or text.get("torch_dtype")
    return dtype if isinstance(dtype, str) else None


def _max_positions(declared: int, text: dict[str, Any]) -> int:
    """YaRN checkpoints may declare the length before stretching; the factor belongs to the original length."""
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, dict) or (rope.get("rope_type") or rope.get("type")) != "yarn":
        return declared

    original, factor = rope.get("original_max_position_embeddings", declared), rope.get("factor", 1)
    if isinstance(original, int) and isinstance(factor, int | float):
        return max(declared, int(original * factor))
    return declared


def _eos_ids(folder: Path, sources: tuple[dict[str, Any], ...], tokenizer: dict[str, Any]) -> list[int]:
    ids = {_token_id(folder, tokenizer, "eos_token")}
    for source in sources:
        value = source.get("eos_token_id")
        ids.update(value if isinstance(value, list) else [value])
    return sorted(each for each in ids if isinstance(each, int) and each >= 0)


def _bos_id(folder: Path, tokenizer: dict[str, Any], text: dict[str, Any]) -> int | None:
    """The tokenizer's word counts: configurations name a BOS for models that never saw one."""
    if "bos_token" in tokenizer:
        return _token_id(folder, tokenizer, "bos_token")

    value = text.get("bos_token_id")
    return value if isinstance(value, int) else None


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def _token_id(folder: Path, tokenizer: dict[str, Any], key: str) -> int | None:
    """Id of a special token that tokenizer_config.json gives as text."""
    token = tokenizer.get(key)
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        return None

    decoder = tokenizer.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for number, entry in decoder.items():
            if isinstance(entry, dict) and entry.get("content") == content and number.isdigit():
                return int(number)

    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        added = msgspec.json.decode(file.read_bytes(), type=_TokenizerFile).added_tokens
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not a tokenizer file: {error}") from None
    return next((each.id for each in added if each.content == content), None)


def _default_sampling(folder: Path, generation: dict[str, Any]) -> dict[str, Any]:
    """Fields that are set; an explicit `do_sample: false` is greedy whatever else stands there."""
    chosen = {key: generation[key] for key in _SAMPLING_KEYS if generation.get(key) is not None}
    for key, value in chosen.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{folder / 'generation_config.json'}: {key} must be a number")

    if generation.get("do_sample") is False:
        return {key: value for key, value in chosen.items() if key == "repetition_penalty"} | {"temperature": 0}
    return chosen


def _own_code(*sources: dict[str, Any]) -> list[str]:
    """Modules named by `auto_map` entries such as "modeling_x.XForCausalLM"."""
    files: set[str] = set()
    for source in sources:
        entries = source.get("auto_map")
        for entry in entries.values() if isinstance(entries, dict) else ():
            names = entry if isinstance(entry, list) else [entry]
            files.update(f"{name.split('.')[0]}.py" for name in names if isinstance(name, str))
    return sorted(files)
