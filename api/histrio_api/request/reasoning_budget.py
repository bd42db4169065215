"""Most tokens of the reasoning: a bound that goes with the grammar of the answer, or with one for any text."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from histrio.errors import RequestError
from histrio.messages import GrammarSpec, Reasoning
from histrio_api.request.received import Received
from histrio_api.request.structured import require_company
from histrio_api.request.wanted import WantedGrammar
from histrio_api.schemas.chat import ChatRequest, Thinking
from histrio_api.shared.edge import Edge

__all__ = ["bounded_reasoning"]

_ANY_TEXT = "text"
"""The kind of grammar of an answer without a form. What enforces it, bounds reasoning."""


def bounded_reasoning(
    edge: Edge, received: Received[ChatRequest], reasoning: Reasoning, grammar: WantedGrammar | None
) -> WantedGrammar | None:
    """The grammar with the bound that the chat asks for, if reasoning can have one and the answer may have any.

    Raises `RequestError` where two fields contradict each other, or the bound would not be kept.
    """
    budgets = {name: most for name, most in _budgets(received.request) if most is not None and most >= 0}
    if not budgets:
        return grammar
    param, most = next(iter(budgets.items()))
    for name, other in budgets.items():
        if other != most:
            raise RequestError(f"{name}: differs from {param}; give one of them", param=name)
    if not _has_own_marks(edge):
        for name in budgets:
            received.ignored.add(name, name)
        return grammar
    if reasoning == "never" or most >= edge.gateway.model.max_sequence_length:
        return grammar

    if _ANY_TEXT not in edge.gateway.model.honours.grammar_kinds:
        text = f"{param}: not supported by {edge.honoured_by}; leave it out"
        raise RequestError(text, param=param, code="unsupported_parameter")
    if grammar is None:
        require_company(received.request, received.sampling, param)
        grammar = WantedGrammar(GrammarSpec(_ANY_TEXT, ""), param)
    return replace(grammar, spec=replace(grammar.spec, max_reasoning_tokens=most))


def _budgets(chat: ChatRequest) -> Iterator[tuple[str, int | None]]:
    yield "max_reasoning_tokens", chat.max_reasoning_tokens
    if chat.reasoning is not None:
        yield "reasoning.max_tokens", chat.reasoning.max_tokens
    if isinstance(chat.thinking, Thinking):
        yield "thinking.budget_tokens", chat.thinking.budget_tokens


def _has_own_marks(edge: Edge) -> bool:
    marks = edge.reasoning_marks
    return marks is not None and all(map(edge.tokenizer.begins_with_own, (marks.open, marks.close)))
