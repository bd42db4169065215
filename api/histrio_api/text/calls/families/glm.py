"""GLM-4.5 and later: a name, and `<arg_key>` and `<arg_value>` for each argument, within `<tool_call>`."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.parameter_calls import ParameterCalls

__all__ = ["FORMATS"]

_ADD = (
    "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n<arg_value>2</arg_value>\n"
    "</tool_call>"
)
_SAY = "<tool_call>say\n<arg_key>text</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"

_SAID = '"日本" </arg \\ 🙂\n12 '

_EXAMPLES = (
    FormatExample(about="one call", answer=_ADD, calls=(("add", '{"a": 1, "b": 2}'),)),
    FormatExample(about="one call", answer=_ADD.replace("\n", ""), calls=(("add", '{"a": 1, "b": 2}'),)),
    FormatExample(
        about="parallel calls",
        answer=f"{_ADD}\n{_SAY.format('hi')}",
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer=f"I add <now>.\n{_ADD}Done.",
        text="I add <now>.\nDone.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer=_SAY.format(_SAID),
        calls=(("say", '{"text": "\\"日本\\" </arg \\\\ 🙂\\n12 "}'),),
    ),
    FormatExample(
        about="broken",
        answer="<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>one</arg_value>\n</tool_call>",
        calls=(("add", '{"a": "one"}'),),
    ),
    FormatExample(about="broken", answer="<tool_call>not so</tool_call>", text="<tool_call>not so</tool_call>"),
    FormatExample(about="no arguments", answer="<tool_call>add</tool_call>", calls=(("add", "{}"),)),
)

FORMATS = (
    ParameterCalls(
        name="glm",
        section="<tool_call>",
        section_end="</tool_call>",
        begin="",
        open="",
        key="<arg_key>",
        key_ends=("</arg_key>\n<arg_value>", "</arg_key><arg_value>"),
        value_end="</arg_value>",
        end="",
        has_one_call=True,
        source_marks=("<arg_key>", "<arg_value>"),
        examples=_EXAMPLES,
    ),
)
