"""Gemma: `call:name{key:value}` with marks around strings (FunctionGemma, Gemma 4), or Python in a block (Gemma 3)."""

from __future__ import annotations

from histrio.contracts.tool_format import FormatExample
from histrio_api.text.calls.gemma_calls import GemmaCalls
from histrio_api.text.calls.pythonic_calls import PythonicCalls

__all__ = ["FORMATS"]


def _examples(begin: str, end: str, quote: str) -> tuple[FormatExample, ...]:
    add = f"{begin}call:add{{a:1,b:2}}{end}"

    def say(text: str) -> str:
        return f"{begin}call:say{{text:{quote}{text}{quote}}}{end}"

    return (
        FormatExample(about="one call", answer=add, calls=(("add", '{"a": 1, "b": 2}'),)),
        FormatExample(
            about="parallel calls",
            answer=add + say("hi"),
            calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
        ),
        FormatExample(
            about="text around", answer=f"I {add} <Done.", text="I  <Done.", calls=(("add", '{"a": 1, "b": 2}'),)
        ),
        FormatExample(
            about="unicode and quotes",
            answer=say('"日本" }, \\ 🙂'),
            calls=(("say", '{"text": "\\"日本\\" }, \\\\ 🙂"}'),),
        ),
        FormatExample(
            about="lists and objects",
            answer=f"{begin}call:say{{text:{quote}x{quote},more:[true,{{k:null}},{quote}y{quote}]}}{end}",
            calls=(("say", '{"text": "x", "more": [true, {"k": null}, "y"]}'),),
        ),
        FormatExample(
            about="broken", answer=f"{begin}call:add{{a:one,b:{end}", calls=(("add", '{"a": "one", "b": ""}'),)
        ),
        FormatExample(about="broken", answer=f"{begin}add(1){end}", text=f"{begin}add(1){end}"),
    )


_BLOCK_EXAMPLES = (
    FormatExample(about="one call", answer="```tool_code\nadd(a=1, b=2)\n```", calls=(("add", '{"a": 1, "b": 2}'),)),
    FormatExample(
        about="parallel calls",
        answer="```tool_code\nadd(a=1, b=2)\nsay(text='hi')\n```",
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer="```x``` I add.\n```tool_code\nadd(a=1, b=2)\n``` Done.",
        text="```x``` I add.\n Done.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer="""```tool_code\nsay(text='"日本" it\\'s ) ``` \U0001f642')\n```""",
        calls=(("say", '{"text": "\\"日本\\" it\'s ) ``` 🙂"}'),),
    ),
    FormatExample(about="broken", answer="```tool_code\nsay(text=5 inch)\n```", calls=(("say", '{"text": "5 inch"}'),)),
    FormatExample(about="broken", answer="```tool_code\n1 + 2\n```", text="```tool_code\n1 + 2\n```"),
)

FORMATS = (
    GemmaCalls(
        name="gemma",
        begin="<|tool_call>",
        end="<tool_call|>",
        quote='<|"|>',
        source_marks=("<|tool_call>", "<tool_call|>"),
        examples=_examples("<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    GemmaCalls(
        name="function-gemma",
        begin="<start_function_call>",
        end="<end_function_call>",
        quote="<escape>",
        source_marks=("<start_function_call>",),
        examples=_examples("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    PythonicCalls(
        name="tool-code",
        begins=("```tool_code\n",),
        end="\n```",
        separator="\n",
        source_marks=("tool_code",),
        examples=_BLOCK_EXAMPLES,
    ),
)
