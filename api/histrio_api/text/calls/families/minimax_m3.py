"""MiniMax-M3: elements within elements, every tag behind one mark."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.nested_calls import NestedCalls

__all__ = ["FORMATS"]

_NS = "]<]minimax[>["
_ALL = f"{_NS}<tool_call>\n{{}}{_NS}</tool_call>"


def _call(name: str, *arguments: str) -> str:
    return f'{_NS}<invoke name="{name}">{"".join(arguments)}{_NS}</invoke>\n'


def _element(key: str, value: str) -> str:
    return f"{_NS}<{key}>{value}{_NS}</{key}>"


_ADD = _call("add", _element("a", "1"), _element("b", "2"))
_SAID = '"日本" </text> <item> \\ 🙂\n12 '
_LISTED = _element("item", "1") + _element("item", _element("k", "v") + _element("l", "true"))

_EXAMPLES = (
    FormatExample(about="one call", answer=_ALL.format(_ADD), calls=(("add", '{"a": 1, "b": 2}'),)),
    FormatExample(
        about="parallel calls",
        answer=_ALL.format(_ADD + _call("say", _element("text", "hi"))),
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer=f"I add <now>. {_ALL.format(_ADD)} Done.",
        text="I add <now>.  Done.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer=_ALL.format(_call("say", _element("text", _SAID))),
        calls=(("say", '{"text": "\\"日本\\" </text> <item> \\\\ 🙂\\n12 "}'),),
    ),
    FormatExample(
        about="nested",
        answer=_ALL.format(_call("say", _element("more", _element("list", _LISTED)), _element("text", "x"))),
        calls=(("say", '{"more": {"list": [1, {"k": "v", "l": true}]}, "text": "x"}'),),
    ),
    FormatExample(
        about="broken", answer=_ALL.format(_call("add", _element("a", "one"))), calls=(("add", '{"a": "one"}'),)
    ),
    FormatExample(about="broken", answer=_ALL.format("nothing"), text=_ALL.format("nothing")),
)

FORMATS = (
    NestedCalls(
        name="minimax-m3",
        prefix=_NS,
        section=f"{_NS}<tool_call>",
        section_end=f"{_NS}</tool_call>",
        begin=f'{_NS}<invoke name="',
        open='">',
        end=f"{_NS}</invoke>",
        source_marks=(_NS, "<invoke name="),
        examples=_EXAMPLES,
    ),
)
