"""How a model makes vectors of texts, as the files say that sentence-transformers puts beside it.

`modules.json` names the steps behind the model, each with a folder of its own. Where there is no such file, the vector
of a model that generates is the hidden state of the last token, as most decoders that were trained for vectors have it,
and that of another model the mean; of length 1 both. What a classifier's number becomes stands beside it, too.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from histrio.config.model_files import read_json_list, read_json_object
from histrio.config.model_kind import ModelKind, num_labels
from histrio.errors import ModelError
from histrio.messages import Pooling

__all__ = ["VectorHabits", "read_vector_habits"]

_POOLINGS: dict[str, Pooling] = {"mean": "mean", "lasttoken": "last", "cls": "cls"}
_FLAG = "pooling_mode_"
_FLAG_SUFFIX = "_token"
_MOST_WIDTH = 2**24
_ITS_CONFIG = "config_sentence_transformers.json"
_FUNCTION = "activation_fn"


class VectorHabits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a vector gets unless it says otherwise."""

    pooling: Pooling = "last"
    normalizes: bool = True
    """The vector is scaled to length 1."""
    widths: list[int] | None = []
    """Shorter vectors that the model was trained for: their first so many numbers mean something alone. None: any."""
    squeezes: bool = True
    """Of a model that scores: its number is brought between 0 and 1, by the sigmoid."""
    refusal: str = ""
    """Why no vectors or scores can be made as the files say; empty where they can."""


def read_vector_habits(folder: Path, config: dict[str, Any], kind: ModelKind = "generate") -> VectorHabits:
    """Read the files beside `config`, the folder's config.json. Raises `ModelError` for what is malformed."""
    if kind == "score":
        return _score_habits(folder, config)

    pooling: Pooling = "last" if kind == "generate" else "mean"
    habits = VectorHabits(pooling=pooling, widths=_widths(folder / "config.json", config))
    file = folder / "modules.json"
    modules = read_json_list(file, optional=True)
    if not modules:
        return habits

    kinds = [_kind(file, each) for each in modules]
    others = [kind for kind in kinds[1:] if kind not in ("Pooling", "Normalize")]
    if others:
        refusal = f"{file.name} names a step that is not computed here: {others[0]}"
        return msgspec.structs.replace(habits, refusal=refusal)

    pooling, refusal = habits.pooling, ""
    if "Pooling" in kinds:
        pooling, refusal = _pooling(folder / _inner(file, modules[kinds.index("Pooling")]) / "config.json")
    return msgspec.structs.replace(habits, pooling=pooling, normalizes="Normalize" in kinds, refusal=refusal)


def _score_habits(folder: Path, config: dict[str, Any]) -> VectorHabits:
    """The keys are those that sentence-transformers writes: its newest, and two older ones in config.json."""
    count = num_labels(config)
    if count != 1:
        return VectorHabits(refusal=f"the model gives each text {count} numbers, and a score is one")

    older = config.get("sentence_transformers")
    found = [
        read_json_object(folder / _ITS_CONFIG, optional=True).get(_FUNCTION),
        older.get(_FUNCTION) if isinstance(older, dict) else None,
        config.get("sbert_ce_default_activation_function"),
    ]
    named = next((each for each in found if each is not None), "Sigmoid")
    match str(named).rpartition(".")[2]:
        case "Sigmoid":
            return VectorHabits()
        case "Identity":
            return VectorHabits(squeezes=False)
        case _:
            return VectorHabits(refusal="the files name a function of scores that is not computed here")


def _kind(file: Path, module: Any) -> str:
    """The last part of a step's type, such as `sentence_transformers.models.Pooling`."""
    kind = module.get("type") if isinstance(module, dict) else None
    if not isinstance(kind, str):
        raise ModelError(f"{file}: each entry must be an object with a `type`")
    return kind.rpartition(".")[2]


def _inner(file: Path, module: dict[str, Any]) -> PurePosixPath:
    """The step's folder, which lies within the model's."""
    path = module.get("path")
    found = PurePosixPath(path) if isinstance(path, str) else None
    if found is None or found.is_absolute() or ".." in found.parts or "\0" in str(found):
        raise ModelError(f"{file}: `path` of {_kind(file, module)} must be a folder within the model's")
    return found


def _pooling(file: Path) -> tuple[Pooling, str]:
    """The way named in this file; or why vectors cannot be made in it."""
    config = read_json_object(file)
    named = config.get("pooling_mode")
    chosen = [named] if isinstance(named, str) else _flagged(config)
    if len(chosen) == 1 and chosen[0] in _POOLINGS:
        return _POOLINGS[chosen[0]], ""
    return "last", f"{file.parent.name}/{file.name} asks for a pooling that is not computed here"


def _flagged(config: dict[str, Any]) -> list[str]:
    """As older files say it: `pooling_mode_cls_token`, `pooling_mode_mean_tokens`, `pooling_mode_lasttoken` …"""
    flags = [key.removeprefix(_FLAG) for key, value in config.items() if key.startswith(_FLAG) and value is True]
    return [flag.removesuffix("s").removesuffix(_FLAG_SUFFIX) for flag in flags]


def _widths(file: Path, config: dict[str, Any]) -> list[int] | None:
    """Of Matryoshka models; the keys are those that vLLM reads."""
    widths = config.get("matryoshka_dimensions")
    if widths is None:
        return None if config.get("is_matryoshka") is True else []

    are_widths = isinstance(widths, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and 1 <= each <= _MOST_WIDTH for each in widths
    )
    if not are_widths:
        raise ModelError(f"{file}: matryoshka_dimensions must be a list of numbers of dimensions")
    return sorted(widths)
