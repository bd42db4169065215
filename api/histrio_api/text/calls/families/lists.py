"""Lists of objects between two marks: Nemotron Nano v2, Apriel, and Command R7B; MiniMax-M1 has no list around them."""

from __future__ import annotations

from histrio.contracts.tool_format import CallLayout, FormatExample
from histrio_api.text.calls.json_calls import JsonCalls

__all__ = ["FORMATS"]


def _examples(layout: CallLayout, call: str) -> tuple[FormatExample, ...]:
    """`call` has the places of a name and of arguments."""

    def written(*calls: tuple[str, str]) -> str:
        objects = [call.replace("NAME", name).replace("ARGUMENTS", arguments) for name, arguments in calls]
        return f"{layout.before}{layout.separator.join(objects)}{layout.after}"

    add, say = ("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')
    said = ("say", '{"text": "\\"日本\\" ]}, </ 🙂"}')
    broken = written(("say", '{"text": "5" x}'))
    end = layout.after.strip().removeprefix("]")
    return (
        FormatExample(about="one call", answer=written(add), calls=(add,)),
        FormatExample(about="one call", answer=written(add).removesuffix(layout.after), calls=(add,)),
        FormatExample(about="parallel calls", answer=written(add, say), calls=(add, say)),
        FormatExample(
            about="text around", answer=f"In [1]: {written(add)}See [2].", text="In [1]: See [2].", calls=(add,)
        ),
        FormatExample(about="unicode and quotes", answer=written(said), calls=(said,)),
        FormatExample(
            about="broken", answer=broken, calls=(("say", broken[broken.index('{"text"') :].removesuffix(end)),)
        ),
        FormatExample(about="broken", answer=f"{layout.trigger} none", text=f"{layout.trigger} none"),
    )


_OBJECT = '{"name": "NAME", "arguments": ARGUMENTS}'
_NEMOTRON = CallLayout(trigger="<TOOLCALL>", before="<TOOLCALL>[", separator=", ", after="]</TOOLCALL>")
_APRIEL = CallLayout(trigger="<tool_calls>", before="<tool_calls>[", separator=", ", after="]</tool_calls>")
_MINIMAX = CallLayout(trigger="<tool_calls>", before="<tool_calls>\n", separator="\n", after="\n</tool_calls>")
_COMMAND = CallLayout(
    trigger="<|START_ACTION|>", before="<|START_ACTION|>[\n    ", separator=",\n    ", after="\n]<|END_ACTION|>"
)

FORMATS = (
    JsonCalls(
        name="nemotron",
        begins=("<TOOLCALL>",),
        end="</TOOLCALL>",
        layout=_NEMOTRON,
        opening="",
        closing="",
        examples=_examples(_NEMOTRON, _OBJECT),
    ),
    JsonCalls(
        name="apriel",
        begins=("<tool_calls>",),
        end="</tool_calls>",
        layout=_APRIEL,
        opening="",
        closing="",
        needed=("<tool_calls>[",),
        examples=_examples(_APRIEL, _OBJECT),
    ),
    JsonCalls(
        name="minimax-m1",
        begins=("<tool_calls>",),
        end="</tool_calls>",
        layout=_MINIMAX,
        opening="",
        closing="",
        joint="\n",
        examples=_examples(_MINIMAX, _OBJECT),
    ),
    JsonCalls(
        name="command",
        begins=("<|START_ACTION|>",),
        end="<|END_ACTION|>",
        layout=_COMMAND,
        opening="",
        closing="",
        name_key="tool_name",
        arguments_key="parameters",
        lead='"tool_call_id": "0", ',
        examples=_examples(_COMMAND, '{"tool_call_id": "0", "tool_name": "NAME", "parameters": ARGUMENTS}'),
    ),
)
