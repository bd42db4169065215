"""LFM2: calls as Python writes them, between `<|tool_call_start|>` and `<|tool_call_end|>`."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.pythonic_calls import PythonicCalls

__all__ = ["FORMATS"]

_BEGIN, _END = "<|tool_call_start|>[", "]<|tool_call_end|>"
_SUM, _HI = '{"a": 1, "b": 2}', '{"text": "hi"}'

_EXAMPLES = (
    FormatExample(about="one call", answer=f"{_BEGIN}add(a=1, b=2){_END}", calls=(("add", _SUM),)),
    FormatExample(
        about="parallel calls",
        answer=f"{_BEGIN}add(a=1, b=2), say(text='hi'){_END}",
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f"In [1] I {_BEGIN}add(a=1, b=2){_END}Adding.",
        text="In [1] I Adding.",
        calls=(("add", _SUM),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer=f"""{_BEGIN}say(text='"日本" it\\'s )] \U0001f642'){_END}""",
        calls=(("say", '{"text": "\\"日本\\" it\'s )] 🙂"}'),),
    ),
    FormatExample(about="broken", answer=f"{_BEGIN}say(text=5 inch){_END}", calls=(("say", '{"text": "5 inch"}'),)),
    FormatExample(about="broken", answer=f"{_BEGIN}1, 2{_END}", text=f"{_BEGIN}1, 2{_END}"),
)

FORMATS = (
    PythonicCalls(
        name="lfm",
        begins=(_BEGIN,),
        end="]",
        trailer="<|tool_call_end|>",
        writes_trailer=True,
        source_marks=("<|tool_list_start|>",),
        examples=_EXAMPLES,
    ),
)
