"""Qwen3-Coder: `<function=NAME>` with a `<parameter=KEY>` for each argument, within `<tool_call>`."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.parameter_calls import ParameterCalls

__all__ = ["FORMATS"]

_ADD = "<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n</function>"
_SAY = "<function=say>\n<parameter=text>\n{}\n</parameter>\n</function>"

_SUM, _HI = '{"a": 1, "b": 2}', '{"text": "hi"}'
_SAID = '"日本" </p \\ 🙂\n\n12'

_EXAMPLES = (
    FormatExample(about="one call", answer=f"<tool_call>\n{_ADD}\n</tool_call>", calls=(("add", _SUM),)),
    FormatExample(about="one call", answer=f"{_ADD}\n</tool_call>", calls=(("add", _SUM),)),
    FormatExample(
        about="parallel calls",
        answer=f"<tool_call>\n{_ADD}\n</tool_call>\n<tool_call>\n{_SAY.format('hi')}\n</tool_call>",
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f"I add <now>. <tool_call>\n{_ADD}\n</tool_call> Done.",
        text="I add <now>.  Done.",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer=f"<tool_call>\n{_SAY.format(_SAID)}\n</tool_call>",
        calls=(("say", '{"text": "\\"日本\\" </p \\\\ 🙂\\n\\n12"}'),),
    ),
    FormatExample(
        about="a number as text",
        answer=f"<tool_call>\n{_SAY.format('12')}\n</tool_call>",
        calls=(("say", '{"text": "12"}'),),
    ),
    FormatExample(
        about="broken",
        answer="<tool_call>\n<function=add>\n<parameter=a>\none\n</parameter>\n</function>\n</tool_call>",
        calls=(("add", '{"a": "one"}'),),
    ),
    FormatExample(
        about="broken",
        answer="<tool_call>\n<function=say>\n<parameter=text>\nhi",
        calls=(("say", _HI),),
    ),
    FormatExample(about="broken", answer="<tool_call>\nadd(1)</tool_call>", text="<tool_call>\nadd(1)</tool_call>"),
)

FORMATS = (
    ParameterCalls(
        name="qwen-coder",
        section="<tool_call>",
        section_end="</tool_call>",
        begin="<function=",
        open=">",
        key="<parameter=",
        key_ends=(">",),
        value_end="</parameter>",
        end="</function>",
        pad="\n",
        has_one_call=True,
        source_marks=("<tool_call>", "<function=", "<parameter="),
        examples=_EXAMPLES,
    ),
)
