"""Whether an answer begins with a thought, told from its prompt: what is left of the thought is free of any grammar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from histrio.contracts.grammar import THOUGHT_CLOSE, THOUGHT_OPEN
from histrio.errors import RequestError
from histrio.messages import Thinking
from histrio_api.request.prompts import Prompt
from histrio_api.schemas.chat import ChatRequest
from histrio_api.shared.edge import Edge

__all__ = ["chat_thinking", "prompts_thinking"]

_NUM_TAIL_TOKENS = 16


def chat_thinking(edge: Edge, chat: ChatRequest, prompt: Prompt) -> Thinking:
    """What the rendered prompt says of the answer."""
    if edge.template is None or not edge.template.knows_thoughts:
        return "never"
    if chat.continue_final_message:
        return "already" if _is_within_thought(chat.messages[-1].content) else "never"

    tail = _tail(edge, prompt.ids)
    if tail.endswith(THOUGHT_OPEN):
        return "already"
    is_open = chat.add_generation_prompt and not tail.endswith(THOUGHT_CLOSE)
    return "maybe" if is_open and edge.template.thinks_unasked else "never"


def prompts_thinking(edge: Edge, prompts: Iterable[str | Sequence[int]]) -> Thinking:
    """A plain prompt may open a thought itself. Raises `RequestError` where only some of several prompts do."""
    if edge.template is None or not edge.template.knows_thoughts:
        return "never"

    found = {_opens_thought(edge, each) for each in prompts}
    if len(found) > 1:
        text = f"prompt: with a form of the answer, all of several prompts end in {THOUGHT_OPEN}, or none of them does"
        raise RequestError(text, param="prompt")
    return "already" if True in found else "never"


def _opens_thought(edge: Edge, prompt: str | Sequence[int]) -> bool:
    tail = prompt.rstrip() if isinstance(prompt, str) else _tail(edge, prompt)
    return tail.endswith(THOUGHT_OPEN)


def _tail(edge: Edge, ids: Sequence[int]) -> str:
    known = [each for each in ids[-_NUM_TAIL_TOKENS:] if each < edge.tokenizer.vocab_size]
    return edge.tokenizer.decode(known, skip_special=False).rstrip()


def _is_within_thought(content: object) -> bool:
    return isinstance(content, str) and content.rfind(THOUGHT_OPEN) > content.rfind(THOUGHT_CLOSE)
