"""The forms of reasoning that come with histrio: between two marks, or in channels."""

from __future__ import annotations

from dataclasses import dataclass

from histrio.contracts.reasoning_format import ReasoningFormat, ReasoningParser, WrittenAnswer
from histrio.messages import Reasoning, ReasoningMarks
from histrio_api.text.channels import ChannelParser
from histrio_api.text.reasoning import Addressed, MarkedReasoning, Unwrapped

__all__ = ["FINAL_CHANNEL", "FORMATS"]

FINAL_CHANNEL = "<|channel|>final<|message|>"
_TO_ALL = ">>>all\n"


@dataclass(frozen=True)
class _Marked:
    """Reasoning between two marks."""

    name: str
    marks: ReasoningMarks
    wrapping: tuple[str, ...] = ()
    """Marks around what is said; they are left out."""

    @property
    def hidden_marks(self) -> tuple[str, ...]:
        """All of them."""
        return (self.marks.open, self.marks.close, *self.wrapping)

    def recognises(self, written: WrittenAnswer) -> bool:
        """The template speaks of the mark that ends it, or writes it."""
        return self.marks.close in written.source or self.marks.close in written.text

    def parser(self, reasoning: Reasoning, has_tools: bool) -> ReasoningParser:
        """For one answer."""
        inner = MarkedReasoning(reasoning, self.marks)
        return Unwrapped(inner, self.wrapping) if self.wrapping else inner


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


class _Functionary:
    """No reasoning, but answers that say for whom they are: `all` is the client."""

    name = "functionary-v3.2"
    marks = None
    hidden_marks = ()

    def recognises(self, written: WrittenAnswer) -> bool:
        """The template writes answers so."""
        return f"{_TO_ALL}{written.answer}" in written.text

    def parser(self, reasoning: Reasoning, has_tools: bool) -> ReasoningParser:
        """For one answer; the prompt ends with the mark that comes before the recipient."""
        return Addressed(_TO_ALL.removeprefix(">>>"), _TO_ALL)


FORMATS: tuple[ReasoningFormat, ...] = (
    _Harmony(),
    _Functionary(),
    _Marked(
        "apriel",
        ReasoningMarks("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", "\n"),
        ("[END FINAL RESPONSE]",),
    ),
    _Marked("gemma", ReasoningMarks("<|channel>thought\n", "<channel|>", "")),
    _Marked("mistral", ReasoningMarks("[THINK]", "[/THINK]", "")),
    _Marked(
        "command",
        ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>", ""),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    _Marked(
        "kimi-k3",
        ReasoningMarks("<|open|>think<|sep|>", "<|close|>think<|sep|>", ""),
        ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>"),
    ),
    _Marked("apertus", ReasoningMarks("<|inner_prefix|>", "<|inner_suffix|>", "")),
    _Marked("hunyuan", ReasoningMarks("<think:opensource>", "</think:opensource>", "")),
    _Marked("minimax-m3", ReasoningMarks("<mm:think>", "</mm:think>", "")),
    _Marked("seed", ReasoningMarks("<seed:think>", "</seed:think>", "")),
    _Marked("think", ReasoningMarks()),
)
