"""From a text with a gap to the prompt that asks the model to fill it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from histrio.errors import RequestError
from histrio_api.request.prompts import Prompt, ids_prompt, text_prompt
from histrio_api.shared.edge import Edge
from histrio_api.text.gap_marks import GapMarks

__all__ = ["Gap", "gap_prompt"]


@dataclass(frozen=True, slots=True)
class Gap:
    """What stands around a gap."""

    before: str
    behind: str
    begun: str = ""
    """What is filled in already: the answer goes on with it."""
    files: Sequence[tuple[str, str]] = ()
    """Names and texts of others that the model may look at."""


def gap_prompt(edge: Edge, gap: Gap, param: str, *, add_special: bool) -> Prompt:
    """The prompt in the form of the model's family. Raises `RequestError` for a model that has none."""
    marks = edge.tokenizer.gap_marks
    if marks is None:
        text = f"{param}: this model has no tokens for filling gaps; ask it to go on with a prompt instead"
        raise RequestError(text, param=param, code="unsupported_parameter")

    def ids_of(text: str) -> list[int]:
        return text_prompt(edge, text, param, add_special=False).ids if text else []

    ids = edge.tokenizer.encode("", add_special=True) if add_special else []
    for name, content in gap.files:
        ids += [_file_mark(marks), *ids_of(f"{name}\n{content}\n")]
    before, behind = ids_of(gap.before), ids_of(gap.behind)
    if marks.is_suffix_first:
        ids += [marks.suffix, *behind, marks.prefix, *before]
    else:
        ids += [marks.prefix, *before, marks.suffix, *behind]
    if marks.middle is not None:
        ids.append(marks.middle)
    prompt = ids_prompt(edge, ids + ids_of(gap.begun), param)
    return replace(prompt, ends=[each for each in marks.ends if each < edge.gateway.model.vocab_size])


def _file_mark(marks: GapMarks) -> int:
    if marks.file is None:
        text = "input_extra: this model has no token that stands before files; put their texts into input_prefix"
        raise RequestError(text, param="input_extra", code="unsupported_parameter")
    return marks.file
