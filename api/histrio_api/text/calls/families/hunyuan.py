"""Hunyuan 3: names and elements for each argument in one section; each mark ends in `:opensource`."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.parameter_calls import ParameterCalls

__all__ = ["FORMATS"]

_ALL, _ALL_END = "<tool_calls:opensource>", "</tool_calls:opensource>"
_BEGIN, _SEP, _END = "<tool_call:opensource>", "<tool_sep:opensource>", "</tool_call:opensource>"
_KEY, _KEY_END = "<arg_key:opensource>", "</arg_key:opensource>"
_VALUE, _VALUE_END = "<arg_value:opensource>", "</arg_value:opensource>"


def _call(name: str, **values: str) -> str:
    arguments = "".join(f"{_KEY}{key}{_KEY_END}\n{_VALUE}{value}{_VALUE_END}\n" for key, value in values.items())
    return f"{_BEGIN}{name}{_SEP}\n{arguments}{_END}"


_ADD = _call("add", a="1", b="2")
_SUM, _HI = '{"a": 1, "b": 2}', '{"text": "hi"}'
_EXAMPLES = (
    FormatExample(about="one call", answer=f"{_ALL}\n{_ADD}\n{_ALL_END}", calls=(("add", _SUM),)),
    FormatExample(
        about="parallel calls",
        answer=f"{_ALL}\n{_ADD}\n{_call('say', text='hi')}\n{_ALL_END}",
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f"I add <now>.\n{_ALL}\n{_ADD}\n{_ALL_END}Done.",
        text="I add <now>.\nDone.",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer=f"{_ALL}\n{_call('say', text=chr(34) + '日本' + chr(34) + ' </arg 🙂')}\n{_ALL_END}",
        calls=(("say", '{"text": "\\"日本\\" </arg 🙂"}'),),
    ),
    FormatExample(about="broken", answer=f"{_ALL}\n{_call('add', a='one')}", calls=(("add", '{"a": "one"}'),)),
    FormatExample(about="broken", answer=f"{_ALL}\nnone{_ALL_END}", text=f"{_ALL}\nnone{_ALL_END}"),
)

FORMATS = (
    ParameterCalls(
        name="hunyuan",
        section=_ALL,
        section_end=_ALL_END,
        begin=_BEGIN,
        open=_SEP,
        key=_KEY,
        key_ends=(f"{_KEY_END}\n{_VALUE}", f"{_KEY_END}{_VALUE}"),
        value_end=_VALUE_END,
        end=_END,
        examples=_EXAMPLES,
    ),
)
