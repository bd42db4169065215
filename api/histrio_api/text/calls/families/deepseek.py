"""DeepSeek: calls in one section, with the arguments in a block of code (V3, R1) or by themselves (V3.1)."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.named_calls import NamedCalls

__all__ = ["FORMATS"]

_ALL, _ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_BEGIN, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


def _block(name: str, arguments: str) -> str:
    return f"{_BEGIN}function{_SEP}{name}\n```json\n{arguments}\n```{_END}"


def _plain(name: str, arguments: str) -> str:
    return f"{_BEGIN}{name}{_SEP}{arguments}{_END}"


_SUM, _HI, _BROKEN = '{"a": 1, "b": 2}', '{"text": "hi"}', '{"text": "5" x}'
_SAID = '{"text": "\\"日本\\" ``` 🙂"}'
_BLOCK_EXAMPLES = (
    FormatExample(
        about="one call",
        answer=f"{_ALL}{_block('add', _SUM)}{_ALL_END}",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="parallel calls",
        answer=f"{_ALL}{_block('add', _SUM)}\n{_block('say', _HI)}{_ALL_END}",
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f"I add.{_ALL}{_block('add', _SUM)}{_ALL_END}Done.",
        text="I add.Done.",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="unicode and quotes", answer=f"{_ALL}{_block('say', _SAID)}{_ALL_END}", calls=(("say", _SAID),)
    ),
    FormatExample(
        about="broken",
        answer=f"{_ALL}{_block('say', _BROKEN)}\n{_block('add', _SUM)}{_ALL_END}",
        calls=(("say", f"{_BROKEN}\n"), ("add", _SUM)),
    ),
    FormatExample(about="broken", answer=f"{_ALL}{_BEGIN}function{_SEP}", text=f"{_ALL}{_BEGIN}function{_SEP}"),
)
_PLAIN_EXAMPLES = (
    FormatExample(
        about="one call",
        answer=f"{_ALL}{_plain('add', _SUM)}{_ALL_END}",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="parallel calls",
        answer=f"{_ALL}{_plain('add', _SUM)}{_plain('say', _HI)}{_ALL_END}",
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f"I add. {_ALL}{_plain('add', _SUM)}{_ALL_END}\nDone.",
        text="I add. \nDone.",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="unicode and quotes", answer=f"{_ALL}{_plain('say', _SAID)}{_ALL_END}", calls=(("say", _SAID),)
    ),
    FormatExample(
        about="broken",
        answer=f"{_ALL}{_plain('say', _BROKEN)}{_plain('add', _SUM)}{_ALL_END}",
        calls=(("say", _BROKEN), ("add", _SUM)),
    ),
    FormatExample(about="broken", answer=f"{_ALL} nothing {_ALL_END}", text=f"{_ALL} nothing {_ALL_END}"),
)

FORMATS = (
    NamedCalls(
        name="deepseek-v3",
        section=_ALL,
        section_end=_ALL_END,
        begins=(f"{_BEGIN}function{_SEP}",),
        middles=("\n```json\n",),
        ends=(f"\n```{_END}", _END),
        separator="\n",
        source_marks=("<｜tool▁calls▁begin｜>", "```json"),
        examples=_BLOCK_EXAMPLES,
    ),
    NamedCalls(
        name="deepseek-v3.1",
        section=_ALL,
        section_end=_ALL_END,
        begins=(_BEGIN,),
        middles=(_SEP,),
        ends=(_END,),
        source_marks=("<｜tool▁calls▁begin｜>",),
        examples=_PLAIN_EXAMPLES,
    ),
)
