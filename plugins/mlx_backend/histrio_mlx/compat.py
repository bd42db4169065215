"""The parts of mlx-lm that this plugin stands on, and the guard around its import.

mlx-lm promises none of these names; they are used through this module only, so that a new version is checked here.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten

__all__ = [
    "MODEL_ALIASES",
    "ArraysCache",
    "CacheList",
    "ChunkedKVCache",
    "ConcatenateKVCache",
    "KVCache",
    "RotatingKVCache",
    "SwitchLinear",
    "YarnRoPE",
    "initialize_rope",
    "linear_to_lora_layers",
    "load_model",
    "make_prompt_cache",
    "model_classes",
    "modules_of",
    "named_parameters",
]


@contextmanager
def _own_file_limit() -> Iterator[None]:
    """mlx-lm lowers the number of files this process may open, for good; a process full of sockets needs them."""
    real = resource.setrlimit

    def ignore_files(kind: int, limits: tuple[int, int]) -> None:
        if kind != resource.RLIMIT_NOFILE:
            real(kind, limits)

    resource.setrlimit = ignore_files
    try:
        yield
    finally:
        resource.setrlimit = real


with _own_file_limit():
    from mlx_lm import utils as _utils
    from mlx_lm.models.cache import (
        ArraysCache,
        CacheList,
        ChunkedKVCache,
        ConcatenateKVCache,
        KVCache,
        RotatingKVCache,
        make_prompt_cache,
    )
    from mlx_lm.models.rope_utils import YarnRoPE, initialize_rope
    from mlx_lm.models.switch_layers import SwitchLinear
    from mlx_lm.tuner.utils import linear_to_lora_layers

load_model = _utils.load_model
MODEL_ALIASES: dict[str, str] = {
    **_utils.MODEL_REMAPPING,
    **{"/".join(key): name for key, name in _utils.MODEL_ARCHITECTURE_REMAPPING.items()},
}
"""Model types, and `type/architecture`, that mlx-lm runs with the code of another."""


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """The model's class and the class of its arguments. Raises ValueError for a type that mlx-lm lacks."""
    try:
        found: tuple[Any, Any] = _utils._get_classes(config)
    except SystemExit as error:
        # mlx-lm's olmo ends the process where a package of its own is missing
        raise ValueError(f"{config['model_type']} needs a package that is not installed (see mlx-lm)") from error

    return found


def named_parameters(model: Any) -> list[tuple[str, mx.array]]:
    """All parameters of a module by their full names."""
    return cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))


def modules_of(model: Any) -> list[Any]:
    """A module and all modules within it."""
    return list(model.modules())
