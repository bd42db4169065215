"""DeepSeek V3.2 and V4: an element for each argument, which says whether it is a string; the section's name differs."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.parameter_calls import ParameterCalls

__all__ = ["FORMATS"]

_STRING, _OTHER = '" string="true">', '" string="false">'
_KEY, _VALUE_END = '<｜DSML｜parameter name="', "</｜DSML｜parameter>"
_BEGIN, _END = '<｜DSML｜invoke name="', "</｜DSML｜invoke>"


def _call(name: str, *arguments: str) -> str:
    return f'{_BEGIN}{name}">\n{"".join(arguments)}{_END}'


def _argument(key: str, value: str, key_end: str = _STRING) -> str:
    return f"{_KEY}{key}{key_end}{value}{_VALUE_END}\n"


_ADD = _call("add", _argument("a", "1", _OTHER), _argument("b", "2", _OTHER))
_SUM, _HI = '{"a": 1, "b": 2}', '{"text": "hi"}'


def _examples(begin: str, end: str) -> tuple[FormatExample, ...]:
    return (
        FormatExample(about="one call", answer=f"{begin}\n{_ADD}\n{end}", calls=(("add", _SUM),)),
        FormatExample(
            about="parallel calls",
            answer=f"{begin}\n{_ADD}\n{_call('say', _argument('text', 'hi'))}\n{end}",
            calls=(("add", _SUM), ("say", _HI)),
        ),
        FormatExample(
            about="text around",
            answer=f"I add <now>.\n\n{begin}\n{_ADD}\n{end}Done.",
            text="I add <now>.\n\nDone.",
            calls=(("add", _SUM),),
        ),
        FormatExample(
            about="unicode and quotes",
            answer=f"{begin}\n{_call('say', _argument('text', chr(34) + '日本' + chr(34) + ' </｜DSML 🙂'))}\n{end}",
            calls=(("say", '{"text": "\\"日本\\" </｜DSML 🙂"}'),),
        ),
        FormatExample(
            about="the type that the model tells",
            answer=f"{begin}\n{_call('other', _argument('n', '1'), _argument('more', '[1, {}]', _OTHER))}\n{end}",
            calls=(("other", '{"n": "1", "more": [1, {}]}'),),
        ),
        FormatExample(
            about="broken",
            answer=f"{begin}\n{_call('add', _argument('a', 'one', _OTHER))}",
            calls=(("add", '{"a": "one"}'),),
        ),
        FormatExample(about="broken", answer=f"{begin}\nnone{end}", text=f"{begin}\nnone{end}"),
    )


def _format(name: str, section: str) -> ParameterCalls:
    begin, end = f"<｜DSML｜{section}>", f"</｜DSML｜{section}>"
    return ParameterCalls(
        name=name,
        section=begin,
        section_end=end,
        begin=_BEGIN,
        open='">',
        key=_KEY,
        key_ends=(_OTHER,),
        typed_ends={"string": _STRING},
        value_end=_VALUE_END,
        end=_END,
        examples=_examples(begin, end),
    )


FORMATS = (_format("deepseek-v3.2", "function_calls"), _format("deepseek-v4", "tool_calls"))
