"""Apertus: a list of objects of one name each, whose value is the arguments, between two marks."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.named_calls import NamedCalls

__all__ = ["FORMATS"]

_ALL, _ALL_END = "<|tools_prefix|>[", "]<|tools_suffix|>"
_SUM, _HI, _BROKEN = '{"a": 1, "b": 2}', '{"text": "hi"}', '{"text": "5" x}'
_SAID = '{"text": "\\"日本\\" }, {\\" 🙂"}'

_EXAMPLES = (
    FormatExample(about="one call", answer=f'{_ALL}{{"add": {_SUM}}}{_ALL_END}', calls=(("add", _SUM),)),
    FormatExample(
        about="parallel calls",
        answer=f'{_ALL}{{"add": {_SUM}}}, {{"say": {_HI}}}{_ALL_END}',
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f'In {{"x": 1}} I add.{_ALL}{{"add": {_SUM}}}{_ALL_END}Done.',
        text='In {"x": 1} I add.Done.',
        calls=(("add", _SUM),),
    ),
    FormatExample(about="unicode and quotes", answer=f'{_ALL}{{"say": {_SAID}}}{_ALL_END}', calls=(("say", _SAID),)),
    FormatExample(about="broken", answer=f'{_ALL}{{"say": {_BROKEN}', calls=(("say", _BROKEN),)),
    FormatExample(about="broken", answer=f"{_ALL} none {_ALL_END}", text=f"{_ALL} none {_ALL_END}"),
)

FORMATS = (
    NamedCalls(
        name="apertus",
        section=_ALL,
        section_end=_ALL_END,
        begins=('{"',),
        middles=('": ', '":'),
        ends=("}",),
        separator=", ",
        is_section_only=True,
        examples=_EXAMPLES,
    ),
)
