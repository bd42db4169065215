"""Seed-OSS: an element for each argument, within `<seed:tool_call>`."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.parameter_calls import ParameterCalls

__all__ = ["FORMATS"]

_ADD = (
    "<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n<parameter=b>2</parameter>\n</function>\n"
    "</seed:tool_call>"
)
_SAY = "<seed:tool_call>\n<function=say>\n<parameter=text>{}</parameter>\n</function>\n</seed:tool_call>"
_SUM, _HI = '{"a": 1, "b": 2}', '{"text": "hi"}'

_EXAMPLES = (
    FormatExample(about="one call", answer=_ADD, calls=(("add", _SUM),)),
    FormatExample(about="parallel calls", answer=f"{_ADD}\n{_SAY.format('hi')}", calls=(("add", _SUM), ("say", _HI))),
    FormatExample(
        about="text around", answer=f"I add <now>.\n{_ADD}Done.", text="I add <now>.\nDone.", calls=(("add", _SUM),)
    ),
    FormatExample(
        about="unicode and quotes",
        answer=_SAY.format('"日本" </param \\ 🙂\n12 '),
        calls=(("say", '{"text": "\\"日本\\" </param \\\\ 🙂\\n12 "}'),),
    ),
    FormatExample(
        about="broken",
        answer="<seed:tool_call>\n<function=add>\n<parameter=a>one</parameter>\n</seed:tool_call>",
        calls=(("add", '{"a": "one"}'),),
    ),
    FormatExample(
        about="broken",
        answer="<seed:tool_call>\nadd(1)</seed:tool_call>",
        text="<seed:tool_call>\nadd(1)</seed:tool_call>",
    ),
)

FORMATS = (
    ParameterCalls(
        name="seed",
        section="<seed:tool_call>",
        section_end="</seed:tool_call>",
        begin="<function=",
        open=">",
        key="<parameter=",
        key_ends=(">",),
        value_end="</parameter>",
        end="</function>",
        has_one_call=True,
        source_marks=("<seed:tool_call>", "<function="),
        examples=_EXAMPLES,
    ),
)
