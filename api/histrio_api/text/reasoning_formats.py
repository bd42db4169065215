"""The forms of reasoning that come with histrio: between two marks, or in channels."""

from __future__ import annotations

from dataclasses import dataclass

from histrio.contracts.reasoning_format import ReasoningFormat, ReasoningParser, WrittenAnswer
from histrio.messages import Reasoning, ReasoningMarks
from histrio_api.text.channels import ChannelParser
from histrio_api.text.reasoning import MarkedReasoning

__all__ = ["FINAL_CHANNEL", "FORMATS"]

FINAL_CHANNEL = "<|channel|>final<|message|>"


@dataclass(frozen=True)
class _Marked:
    """Reasoning between two marks."""

    name: str
    marks: ReasoningMarks

    @property
    def hidden_marks(self) -> tuple[str, ...]:
        """Both."""
        return (self.marks.open, self.marks.close)

    def recognises(self, written: WrittenAnswer) -> bool:
        """The template speaks of the mark that ends it."""
        return self.marks.close in written.source

    def parser(self, reasoning: Reasoning, has_tools: bool) -> ReasoningParser:
        """For one answer."""
        return MarkedReasoning(reasoning, self.marks)


class _Harmony:
    """Answers in channels, of which the one named `final` is what is said."""

    name = "harmony"
    marks = None
    hidden_marks = (FINAL_CHANNEL,)

    def recognises(self, written: WrittenAnswer) -> bool:
        """The template writes answers into that channel."""
        return f"{FINAL_CHANNEL}{written.answer}" in written.text

    def parser(self, reasoning: Reasoning, has_tools: bool) -> ReasoningParser:
        """For one answer."""
        return ChannelParser(passes_calls=has_tools)


FORMATS: tuple[ReasoningFormat, ...] = (
    _Harmony(),
    _Marked("gemma", ReasoningMarks("<|channel>thought\n", "<channel|>", "")),
    _Marked("mistral", ReasoningMarks("[THINK]", "[/THINK]", "")),
    _Marked("seed", ReasoningMarks("<seed:think>", "</seed:think>", "")),
    _Marked("think", ReasoningMarks()),
)
