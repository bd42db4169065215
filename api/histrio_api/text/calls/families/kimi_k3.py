"""Kimi K3: elements between `<|open|>` and `<|close|>`, which number the calls and tell the types of arguments."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.parameter_calls import ParameterCalls

__all__ = ["FORMATS"]

_ALL, _ALL_END = "<|open|>tools<|sep|>", "<|close|>tools<|sep|>"
_BEGIN, _END = '<|open|>call tool="', "<|close|>call<|sep|>"
_KEY, _VALUE_END = '<|open|>argument key="', "<|close|>argument<|sep|>"
_TYPES = ("string", "number", "boolean", "null", "object", "array")


def _key_end(kind: str) -> str:
    return f'" type="{kind}"<|sep|>'


def _argument(key: str, value: str, kind: str = "string") -> str:
    return f"{_KEY}{key}{_key_end(kind)}{value}{_VALUE_END}"


def _call(name: str, index: int, *arguments: str) -> str:
    return f'{_BEGIN}{name}" index="{index}"<|sep|>{"".join(arguments)}{_END}'


_ADD = _call("add", 1, _argument("a", "1", "number"), _argument("b", "2", "number"))
_SUM, _HI = '{"a": 1, "b": 2}', '{"text": "hi"}'
_SAID = '"日本" <|close 🙂\n1'
_EXAMPLES = (
    FormatExample(about="one call", answer=f"{_ALL}{_ADD}{_ALL_END}", calls=(("add", _SUM),)),
    FormatExample(
        about="parallel calls",
        answer=f"{_ALL}{_ADD}{_call('say', 2, _argument('text', 'hi'))}{_ALL_END}",
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around", answer=f"I add.{_ALL}{_ADD}{_ALL_END}Done.", text="I add.Done.", calls=(("add", _SUM),)
    ),
    FormatExample(
        about="unicode and quotes",
        answer=f"{_ALL}{_call('say', 1, _argument('text', _SAID))}{_ALL_END}",
        calls=(("say", '{"text": "\\"日本\\" <|close 🙂\\n1"}'),),
    ),
    FormatExample(
        about="the type that the model tells",
        answer=f"{_ALL}{_call('other', 12, _argument('n', '1'), _argument('l', '[1]', 'array'))}{_ALL_END}",
        calls=(("other", '{"n": "1", "l": [1]}'),),
    ),
    FormatExample(
        about="broken",
        answer=f"{_ALL}{_call('add', 1, _argument('a', 'one', 'number'))}",
        calls=(("add", '{"a": "one"}'),),
    ),
    FormatExample(about="broken", answer=f"{_ALL}none{_ALL_END}", text=f"{_ALL}none{_ALL_END}"),
)

FORMATS = (
    ParameterCalls(
        name="kimi-k3",
        section=_ALL,
        section_end=_ALL_END,
        begin=_BEGIN,
        open='" index="',
        index_end='"<|sep|>',
        key=_KEY,
        key_ends=(_key_end("number"),),
        typed_ends={each: _key_end(each) for each in _TYPES} | {"integer": _key_end("number")},
        value_end=_VALUE_END,
        end=_END,
        gap="",
        examples=_EXAMPLES,
    ),
)
