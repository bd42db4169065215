"""gpt-oss: a message to `functions.NAME` in the channel for commentary, as its channels are passed on to here."""

from __future__ import annotations

from msgspec.structs import replace

from histrio.contracts.tool_format import FormatExample, WrittenCall
from histrio_api.text.calls.named_calls import NamedCalls
from histrio_api.text.channels import ChannelParser

__all__ = ["FORMATS"]

_BEGIN, _MIDDLE, _END = "<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", "<|call|>"
_SUM, _HI, _BROKEN = '{"a": 1, "b": 2}', '{"text": "hi"}', '{"text": "5" x}'
_SAID = '{"text": "\\"日本\\" <|call|> 🙂"}'


def _call(name: str, arguments: str) -> str:
    return f"{_BEGIN}{name}{_MIDDLE}{arguments}{_END}"


_EXAMPLES = (
    FormatExample(about="one call", answer=_call("add", _SUM), calls=(("add", _SUM),)),
    FormatExample(about="one call", answer=f'{_BEGIN}add<|message|>{{"a": 1, "b": 2}}', calls=(("add", _SUM),)),
    FormatExample(
        about="parallel calls",
        answer=_call("add", _SUM) + _call("say", _HI),
        calls=(("add", _SUM), ("say", _HI)),
    ),
    FormatExample(
        about="text around",
        answer=f"I add.{_call('add', _SUM)}Done.",
        text="I add.Done.",
        calls=(("add", _SUM),),
    ),
    FormatExample(about="unicode and quotes", answer=_call("say", _SAID), calls=(("say", _SAID),)),
    FormatExample(
        about="broken",
        answer=_call("say", _BROKEN) + _call("add", _SUM),
        calls=(("say", _BROKEN), ("add", _SUM)),
    ),
    FormatExample(about="broken", answer=f"{_BEGIN}add 5", text=f"{_BEGIN}add 5"),
)


class _Harmony(NamedCalls):
    """Templates write a call in a spelling of their own."""

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is passed on and read as one."""
        channels = ChannelParser(passes_calls=True)
        text = f"{channels.push(written.text)[1]}{channels.flush()[1]}"
        return bool(text) and super().recognises(replace(written, text=text))


FORMATS = (
    _Harmony(
        name="harmony",
        begins=(_BEGIN,),
        middles=(_MIDDLE, " json<|message|>", "<|message|>"),
        ends=(_END,),
        written_end="",
        examples=_EXAMPLES,
    ),
)
