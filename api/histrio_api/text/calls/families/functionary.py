"""Functionary: in 3.1 a name and JSON between `<function=` and `</function>`, in 3.2 behind `>>>` and a line's end."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.addressed_calls import AddressedCalls
from histrio_api.text.calls.named_calls import NamedCalls

__all__ = ["FORMATS"]

_SUM, _HI, _BROKEN = '{"a": 1, "b": 2}', '{"text": "hi"}', '{"text": "5" x}'
_SAID = '{"text": "\\"日本\\" </function> 🙂"}'


def _call(name: str, arguments: str) -> str:
    return f"<function={name}>{arguments}</function>"


_EXAMPLES = (
    FormatExample(about="one call", answer=_call("add", _SUM), calls=(("add", _SUM),)),
    FormatExample(
        about="parallel calls", answer=_call("add", _SUM) + _call("say", _HI), calls=(("add", _SUM), ("say", _HI))
    ),
    FormatExample(
        about="text around",
        answer=f"I add <now>. {_call('add', _SUM)}Done.",
        text="I add <now>. Done.",
        calls=(("add", _SUM),),
    ),
    FormatExample(about="unicode and quotes", answer=_call("say", _SAID), calls=(("say", _SAID),)),
    FormatExample(
        about="broken", answer=_call("say", _BROKEN) + _call("add", _SUM), calls=(("say", _BROKEN), ("add", _SUM))
    ),
    FormatExample(about="broken", answer="<function=>1</function>", text="<function=>1</function>"),
)

_ADDRESSED = (
    FormatExample(about="one call", answer=f"add\n{_SUM}", calls=(("add", _SUM),)),
    FormatExample(about="parallel calls", answer=f"add\n{_SUM}>>>say\n{_HI}", calls=(("add", _SUM), ("say", _HI))),
    FormatExample(
        about="text around",
        answer=f"I add >>> <now>. >>>add\n{_SUM}Done.",
        text="I add >>> <now>. Done.",
        calls=(("add", _SUM),),
    ),
    FormatExample(about="unicode and quotes", answer=f"say\n{_SAID}", calls=(("say", _SAID),)),
    FormatExample(about="broken", answer=f"say\n{_BROKEN}>>>add\n{_SUM}", calls=(("say", _BROKEN), ("add", _SUM))),
    FormatExample(about="broken", answer="add\n1>>>other\n{}", text="add\n1>>>other\n{}"),
)

FORMATS = (
    NamedCalls(
        name="functionary",
        begins=("<function=",),
        middles=(">",),
        ends=("</function>",),
        examples=_EXAMPLES,
    ),
    AddressedCalls(name="functionary-v3.2", mark=">>>", examples=_ADDRESSED),
)
