"""Kimi K2: a section of calls, each of which is numbered: `functions.NAME:POSITION`."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.named_calls import NamedCalls

__all__ = ["FORMATS"]

_ALL, _ALL_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_BEGIN, _MIDDLE, _END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_SUM, _HI, _BROKEN = '{"a": 1, "b": 2}', '{"text": "hi"}', '{"text": "5" x}'
_SAID = '{"text": "\\"日本\\" <|tool_call_end|> 🙂"}'


def _call(name: str, position: int, arguments: str) -> str:
    return f"{_BEGIN}functions.{name}:{position}{_MIDDLE}{arguments}{_END}"


_EXAMPLES = (
    FormatExample(
        about="one call",
        answer=f"{_ALL}{_call('add', 0, _SUM)}{_ALL_END}",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="parallel calls",
        answer=f"{_ALL}{_call('add', 0, _SUM)}{_call('say', 1, _HI)}{_ALL_END}",
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f"I add. {_ALL}\n{_call('add', 0, _SUM)}\n{_ALL_END} Done.",
        text="I add.  Done.",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="unicode and quotes", answer=f"{_ALL}{_call('say', 0, _SAID)}{_ALL_END}", calls=(("say", _SAID),)
    ),
    FormatExample(
        about="broken",
        answer=f"{_ALL}{_call('say', 0, _BROKEN)}{_call('add', 1, _SUM)}{_ALL_END}",
        calls=(("say", _BROKEN), ("add", _SUM)),
    ),
    FormatExample(about="broken", answer=f"{_ALL}{_BEGIN}{_END}{_ALL_END}", text=f"{_ALL}{_BEGIN}{_END}{_ALL_END}"),
)

FORMATS = (
    NamedCalls(
        name="kimi",
        section=_ALL,
        section_end=_ALL_END,
        begins=(_BEGIN,),
        middles=(_MIDDLE,),
        ends=(_END,),
        is_numbered=True,
        source_marks=("<|tool_call_argument_begin|>",),
        examples=_EXAMPLES,
    ),
)
