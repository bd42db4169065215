"""What the core reads of a model: config.json, generation_config.json and tokenizer_config.json, without transformers.

The sources disagree in practice: a chat model's text ends at ids that only one of the three files names, so all are
joined. Sampling defaults follow generation_config.json as vLLM does: what it sets is the default of a request.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec

from histrio.config.bounds import check_bounds, rope_tables
from histrio.config.model_files import read_json_object, read_model_text
from histrio.config.model_kind import ModelKind, model_kind
from histrio.config.vector_habits import VectorHabits, read_vector_habits
from histrio.errors import ModelError, UnsupportedModel

__all__ = ["NUM_LAYERS_KEYS", "ModelConfig", "read_model_config"]

_SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
NUM_LAYERS_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Names under which config.json says how many layers there are."""
_MAX_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "model_max_length")
_DEFAULT_POSITIONS = {"falcon": 2048}
"""Model types whose published files leave the context to transformers' default."""
_UNKNOWN_CONTEXT = 2048
_TEXT_FILE = "sentence_bert_config.json"
_POSITIONS_BEHIND_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta")
"""Model types whose `max_position_embeddings` counts `_PADDING_ROWS` rows that no token of a text has."""
_PADDING_ROWS = 2
_DECLARE_STRETCHED = ("gemma3",)
"""Beginnings of model types whose `max_position_embeddings` counts the stretching already."""
_MOST_TOKENS = 2**31 - 1
_MOST_NUMBER = 2**53
_MOST_TOKENIZER_BYTES = 512 * 2**20
_TOKEN_NUMBER = re.compile(r"[0-9]{1,9}")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A model's shape and habits, as its files state them."""

    architecture: str
    """First entry of `architectures`, e.g. `Qwen3ForCausalLM`."""
    num_layers: int
    vocab_size: int
    max_positions: int
    """Longest context in tokens, as far as its positions can be stretched."""
    usual_positions: int
    """The same, but without what changes the positions of short texts too, and no longer than the texts that
    sentence-transformers gives a model that generates nothing."""
    names_context: bool = True
    """False: the files don't say, and the two above are a guess."""
    dtype: str | None = None
    """Format of the checkpoint by its own account."""
    bos_id: int | None = None
    eos_ids: list[int] = []
    """Every id that ends a text, sorted."""
    unknown_eos_ids: list[int] = []
    """Named likewise, but outside of the vocabulary, so the model cannot say them."""
    default_sampling: dict[str, Any] = {}
    """What generation_config.json sets of temperature, top_k, top_p, min_p, repetition_penalty."""
    is_wrapper: bool = False
    """Whether it has parts for images or sound beside the language model."""
    kind: ModelKind = "generate"
    vectors: VectorHabits = VectorHabits()
    """How it makes vectors of texts."""
    own_code: list[str] = []
    """Python files the model would like to be run; they never are."""


def read_model_config(folder: Path) -> ModelConfig:
    """Read the model's files. Raises `ModelError` with the file's name and the key, or `UnsupportedModel`."""
    file = folder / "config.json"
    config = read_json_object(file)
    generation = read_json_object(folder / "generation_config.json", optional=True)
    tokenizer = read_json_object(folder / "tokenizer_config.json", optional=True)
    check_bounds(file, config)
    text = config | {key: value for key, value in (config.get("text_config") or {}).items() if value is not None}
    check_bounds(file, text)
    vocab_size = _required(file, text, ("vocab_size",))
    declared = _declared_positions(text) or _tokenizers_length(tokenizer) or _default_positions(text)
    context = declared or _UNKNOWN_CONTEXT
    stretched = _stretched(context, text)
    eos_ids = _eos_ids(
        folder, [(file, config), (file, text), (folder / "generation_config.json", generation)], tokenizer
    )
    architecture = _architecture(folder, config)
    kind = model_kind(architecture)
    usual = context if _changes_when_stretched(text) else stretched
    return ModelConfig(
        architecture=architecture,
        num_layers=_required(file, text, NUM_LAYERS_KEYS),
        vocab_size=vocab_size,
        max_positions=stretched,
        usual_positions=min(usual, _usual_text(folder, tokenizer) or usual) if kind != "generate" else usual,
        names_context=declared is not None,
        dtype=_dtype(text),
        bos_id=_bos_id(folder, tokenizer, text, vocab_size),
        eos_ids=[each for each in eos_ids if each < vocab_size],
        unknown_eos_ids=[each for each in eos_ids if each >= vocab_size],
        default_sampling=_default_sampling(folder, generation),
        is_wrapper=any(config.get(key) is not None for key in ("vision_config", "audio_config")),
        kind=kind,
        vectors=read_vector_habits(folder, text, kind),
        own_code=_own_code(config, tokenizer),
    )


def _first(text: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of `names` that is there; `check_bounds` has seen them all."""
    return next((text[name] for name in names if text.get(name) is not None), None)


def _declared_positions(text: dict[str, Any]) -> int | None:
    """Without the first rows of a table in which the positions begin behind the padding."""
    declared = _first(text, _MAX_POSITIONS)
    if declared is None or text.get("model_type") not in _POSITIONS_BEHIND_PADDING:
        return declared
    return max(declared - _PADDING_ROWS, 1)


def _required(file: Path, text: dict[str, Any], names: tuple[str, ...]) -> int:
    value = _first(text, names)
    if value is None:
        raise UnsupportedModel(f"{file} has no {names[0]}, so this is not a text model that can be served")
    return value


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures") or []
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise UnsupportedModel(f"{folder / 'config.json'} names no architecture (`architectures`)")

    return names[0]


def _dtype(text: dict[str, Any]) -> str | None:
    dtype = text.get("dtype") or text.get("torch_dtype")
    return dtype.removeprefix("torch.") if isinstance(dtype, str) else None


def _tokenizers_length(tokenizer: dict[str, Any]) -> int | None:
    """What the tokenizer is cut at; files without a limit have an enormous number there."""
    length = tokenizer.get("model_max_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and 1 <= length <= _MOST_TOKENS else None


def _usual_text(folder: Path, tokenizer: dict[str, Any]) -> int | None:
    """The longest text that the model is given where its files are followed."""
    named = read_json_object(folder / _TEXT_FILE, optional=True).get("max_seq_length")
    is_length = isinstance(named, int) and not isinstance(named, bool) and named >= 1
    return named if is_length else _tokenizers_length(tokenizer)


def _default_positions(text: dict[str, Any]) -> int | None:
    return _DEFAULT_POSITIONS.get(str(text.get("model_type")))


def _stretched(declared: int, text: dict[str, Any]) -> int:
    """How far the checkpoint says that its positions reach.

    Linear and dynamic scaling stretch what is declared. YaRN checkpoints may declare the length before stretching, and
    their factor belongs to the original length. Llama 3's and LongRoPE's declare what they reach.
    """
    if str(text.get("model_type")).startswith(_DECLARE_STRETCHED):
        return declared

    reached = declared
    for _, table in rope_tables(text):
        factor = table.get("factor") or 1
        match table.get("rope_type") or table.get("type"):
            case "linear" | "dynamic":
                reached = max(reached, int(declared * factor))
            case "yarn":
                reached = max(reached, int((table.get("original_max_position_embeddings") or declared) * factor))
    return min(reached, _MOST_TOKENS)


def _changes_when_stretched(text: dict[str, Any]) -> bool:
    """Whether a longer context means other positions for short texts too."""
    return any((table.get("rope_type") or table.get("type")) == "dynamic" for _, table in rope_tables(text))


def _eos_ids(folder: Path, sources: list[tuple[Path, dict[str, Any]]], tokenizer: dict[str, Any]) -> list[int]:
    ids = {_token_id(folder, tokenizer, "eos_token")}
    for file, source in sources:
        value = source.get("eos_token_id")
        ids.update(_checked_id(file, "eos_token_id", each) for each in (value if isinstance(value, list) else [value]))
    return sorted(each for each in ids if each is not None and each >= 0)


def _bos_id(folder: Path, tokenizer: dict[str, Any], text: dict[str, Any], vocab_size: int) -> int | None:
    """The tokenizer's word counts: configurations name a BOS for models that never saw one."""
    named = _checked_id(folder / "config.json", "bos_token_id", text.get("bos_token_id"))
    found = _token_id(folder, tokenizer, "bos_token") if "bos_token" in tokenizer else named
    return found if found is not None and 0 <= found < vocab_size else None


def _checked_id(file: Path, key: str, value: Any) -> int | None:
    """A token id, or none; -1 is written for none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= _MOST_TOKENS:
        raise ModelError(f"{file}: {key} must be a token id, or a list of them")
    return value


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
            if isinstance(entry, dict) and entry.get("content") == content and _TOKEN_NUMBER.fullmatch(number):
                return int(number)

    file = folder / "tokenizer.json"
    if not file.exists():
        return None
    try:
        added = msgspec.json.decode(read_model_text(file, _MOST_TOKENIZER_BYTES), type=_TokenizerFile).added_tokens
    except RecursionError:
        raise ModelError(f"{file} is nested too deep") from None
    except msgspec.MsgspecError as error:
        raise ModelError(f"{file} is not a tokenizer file: {error}") from None
    return next((each.id for each in added if each.content == content), None)


def _default_sampling(folder: Path, generation: dict[str, Any]) -> dict[str, Any]:
    """Fields that are set; an explicit `do_sample: false` is greedy whatever else stands there."""
    chosen = {key: generation[key] for key in _SAMPLING_KEYS if generation.get(key) is not None}
    for key, value in chosen.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or math.isnan(value) or abs(value) > _MOST_NUMBER:
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
