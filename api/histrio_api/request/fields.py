"""Which request fields are honoured, which cannot matter, and which are refused: nothing is ignored in silence.

A field of a request is one of: of the request's struct; a sampling field that some sampler has registered; without any
effect by its definition; known, but not supported, and then only its neutral value is let through; unknown.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from histrio.errors import RequestError
from histrio_api.errors import MAX_PARAM_CHARS, from_validation
from histrio_api.schemas.generation import GenerationRequest

__all__ = ["NEUTRAL_VALUES", "NO_EFFECT", "split_fields", "within_vocabulary"]

R = TypeVar("R", bound=GenerationRequest)

NO_EFFECT = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "user",
    }
)
"""Fields that label, or only promise speed; no value of them changes what is generated."""

NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "bad_words_ids": ([],),
    "best_of": (1,),
    "chat_template": (),
    "documents": ([],),
    "dry_allowed_length": (2,),
    "dry_base": (1.75,),
    "dry_multiplier": (0,),
    "dry_penalty_last_n": (-1, 0),
    "dry_sequence_breaker_ids": ([],),
    "dry_sequence_breakers": ([],),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "mirostat_eta": (0.1,),
    "mirostat_tau": (5,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "return_token_ids": (False,),
    "service_tier": ("auto", "default"),
    "spaces_between_special_tokens": (True,),
    "store": (False,),
    "suffix": ("",),
    "temperature": (1,),
    "top_k": (0, -1),
    "top_logprobs": (0,),
    "top_n_sigma": (0, -1),
    "top_p": (1,),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "xtc_probability": (0,),
    "xtc_threshold": (0.1,),
}
"""Known fields that are not supported here, with the values besides null at which they would change nothing."""

_MAX_ID_DIGITS = 18


def split_fields(
    request: dict[str, Any], kind: type[R], sampling_fields: frozenset[str], honoured_by: str = "this server"
) -> tuple[R, dict[str, Any]]:
    """The checked request and its sampling fields. A null means that the field is not given.

    `honoured_by` names what honours these fields and no others, for messages. Raises `RequestError`.
    """
    own: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    names = kind.__struct_fields__
    for name, value in request.items():
        if name in names:
            target: dict[str, Any] | None = own
        elif name in sampling_fields:
            target = sampling
        else:
            _require_neutral(name, value, honoured_by)
            target = None
        if target is not None and value is not None:
            target[name] = value

    try:
        return msgspec.convert(own, kind), sampling
    except msgspec.ValidationError as error:
        raise from_validation(error) from None


def within_vocabulary(sampling: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The same sampling fields without what names tokens that do not exist: as many as there are, or one beyond them.

    A value without the form of its field is left to the checks of that field.
    """
    top_k, biases = sampling.get("top_k"), sampling.get("logit_bias")
    if isinstance(top_k, int) and top_k >= vocab_size:
        sampling = sampling | {"top_k": 0}
    if isinstance(biases, dict):
        sampling = sampling | {"logit_bias": {key: biases[key] for key in biases if not _is_beyond(key, vocab_size)}}
    return sampling


def _is_beyond(key: str, vocab_size: int) -> bool:
    return key.isascii() and key.isdecimal() and (len(key) > _MAX_ID_DIGITS or int(key) >= vocab_size)


def _require_neutral(name: str, value: Any, honoured_by: str) -> None:
    if name in NO_EFFECT:
        return

    shown = name[:MAX_PARAM_CHARS]
    if name not in NEUTRAL_VALUES:
        raise RequestError(f"{shown}: unknown field", param=shown, code="unknown_parameter")
    if value is None:
        return

    for neutral in NEUTRAL_VALUES[name]:
        # True == 1 in Python, but `best_of: true` is not a number of choices.
        if value == neutral and isinstance(value, bool) == isinstance(neutral, bool):
            return
    allowed = " or ".join(msgspec.json.encode(neutral).decode() for neutral in NEUTRAL_VALUES[name])
    only = f"; leave it out or give {allowed}" if allowed else "; leave it out"
    raise RequestError(f"{shown}: not supported by {honoured_by}{only}", param=shown, code="unsupported_parameter")
