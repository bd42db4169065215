"""The tokens by which a model is asked to fill a gap in a text: every family has its own, in an order of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["GapMarks", "gap_marks"]


class GapMarks(NamedTuple):
    """Ids of the marks that stand in a prompt."""

    prefix: int
    suffix: int
    middle: int | None
    """None: nothing stands behind the text that comes last."""
    is_suffix_first: bool = False
    file: int | None = None
    """Before each file that is given beside the gap; None if the family has no such mark."""
    ends: tuple[int, ...] = ()
    """What ends the filling, besides what ends any text."""


_TRIPLES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, Qwen3-Coder, Yi-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder, DeepSeek-V3
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
)
_SUFFIX_FIRST = ("[PREFIX]", "[SUFFIX]")  # Codestral
_FILES = ("<|file_sep|>", "<file_sep>", "<|file_separator|>")
_ENDS = ("<|fim_pad|>", "<fim_pad>", "<|repo_name|>", "▁<EOT>", *_FILES)


def gap_marks(id_of: Callable[[str], int | None]) -> GapMarks | None:
    """Those of the first family all of whose marks are tokens. `id_of` finds a token, or None."""
    file = next((found for each in _FILES if (found := id_of(each)) is not None), None)
    ends = tuple(found for each in _ENDS if (found := id_of(each)) is not None)
    for names in _TRIPLES:
        prefix, suffix, middle = map(id_of, names)
        if prefix is not None and suffix is not None and middle is not None:
            return GapMarks(prefix, suffix, middle, file=file, ends=ends)

    prefix, suffix = map(id_of, _SUFFIX_FIRST)
    if prefix is None or suffix is None:
        return None
    return GapMarks(prefix, suffix, None, is_suffix_first=True, file=file, ends=ends)
