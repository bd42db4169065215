"""Whether an answer begins with reasoning, told from its prompt: no grammar binds what is left of the reasoning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from histrio.errors import RequestError
from histrio.messages import Reasoning, ReasoningMarks
from histrio_api.request.prompts import Prompt
from histrio_api.schemas.chat import ChatRequest
from histrio_api.shared.edge import Edge

__all__ = ["chat_reasoning", "prompts_reasoning"]

_NUM_TAIL_TOKENS = 32
"""No mark has more, also where each character is a token."""


def chat_reasoning(edge: Edge, chat: ChatRequest, prompt: Prompt) -> Reasoning:
    """What the rendered prompt says of the answer."""
    marks = edge.reasoning_marks
    if marks is None or edge.template is None:
        return "never"
    if chat.continue_final_message:
        return "already" if _is_within_reasoning(chat.messages[-1].content, marks) else "never"

    tail = _tail(edge, prompt.ids)
    if tail.endswith(marks.open.rstrip()):
        return "already"
    is_open = chat.add_generation_prompt and not tail.endswith(marks.close.rstrip())
    return "maybe" if is_open and edge.template.reasons_unasked(marks.open) else "never"


def prompts_reasoning(edge: Edge, prompts: Iterable[str | Sequence[int]]) -> Reasoning:
    """A plain prompt may open reasoning itself. Raises `RequestError` where only some of several prompts do."""
    marks = edge.reasoning_marks
    if marks is None:
        return "never"

    found = {_opens_reasoning(edge, each, marks.open) for each in prompts}
    if len(found) > 1:
        text = f"prompt: with a form of the answer, all of several prompts end in {marks.open}, or none of them does"
        raise RequestError(text, param="prompt")
    return "already" if True in found else "never"


def _opens_reasoning(edge: Edge, prompt: str | Sequence[int], opening: str) -> bool:
    tail = prompt.rstrip() if isinstance(prompt, str) else _tail(edge, prompt)
    return tail.endswith(opening.rstrip())


def _tail(edge: Edge, ids: Sequence[int]) -> str:
    known = [each for each in ids[-_NUM_TAIL_TOKENS:] if each < edge.tokenizer.vocab_size]
    return edge.tokenizer.decode(known, skip_special=False).rstrip()


def _is_within_reasoning(content: object, marks: ReasoningMarks) -> bool:
    return isinstance(content, str) and content.rfind(marks.open) > content.rfind(marks.close)
