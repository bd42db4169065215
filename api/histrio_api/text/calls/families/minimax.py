"""MiniMax-M2: `<invoke name="…">` with a `<parameter name="…">` for each argument, in one section."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.parameter_calls import ParameterCalls

__all__ = ["FORMATS"]

_ADD = '<invoke name="add">\n<parameter name="a">1</parameter>\n<parameter name="b">2</parameter>\n</invoke>'
_SAY = '<invoke name="say">\n<parameter name="text">{}</parameter>\n</invoke>'
_ALL = "<minimax:tool_call>\n{}\n</minimax:tool_call>"

_SAID = '"日本" </p \\ 🙂\n12 '

_EXAMPLES = (
    FormatExample(about="one call", answer=_ALL.format(_ADD), calls=(("add", '{"a": 1, "b": 2}'),)),
    FormatExample(
        about="parallel calls",
        answer=_ALL.format(f"{_ADD}\n{_SAY.format('hi')}"),
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
        answer=_ALL.format(_SAY.format(_SAID)),
        calls=(("say", '{"text": "\\"日本\\" </p \\\\ 🙂\\n12 "}'),),
    ),
    FormatExample(
        about="broken",
        answer=_ALL.format('<invoke name="add">\n<parameter name="a">one</parameter>\n</invoke>'),
        calls=(("add", '{"a": "one"}'),),
    ),
    FormatExample(about="broken", answer=_ALL.format("nothing"), text=_ALL.format("nothing")),
)

FORMATS = (
    ParameterCalls(
        name="minimax",
        section="<minimax:tool_call>",
        section_end="</minimax:tool_call>",
        begin='<invoke name="',
        open='">',
        key='<parameter name="',
        key_ends=('">',),
        value_end="</parameter>",
        end="</invoke>",
        source_marks=("<minimax:tool_call>", "<invoke name="),
        examples=_EXAMPLES,
    ),
)
