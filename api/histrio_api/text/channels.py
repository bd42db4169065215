"""Answers in channels, as gpt-oss writes them (the harmony format): `<|channel|>NAME<|message|>TEXT<|end|>`, repeated.

What is written to `final`, or to `commentary` without a recipient, is the answer; the rest is reasoning. Marks and
headers are never shown. Calls of tools are part of the answer where they are read there, in one spelling of the several
that models use.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from histrio_api.text.stops import Wanted

__all__ = ["ChannelParser"]

_BODY = "<|message|>"
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_MARK = re.compile(r"<\|\w*\|>")
_CALLED = re.compile(r"\bto=functions\.([\w.\-/:]+)")
_BEGINNINGS = ("<|channel|>", "<|start|>", " to=functions.")
_ENDS = Wanted(["<|end|>", "<|return|>", "<|call|>", "<|channel|>", "<|start|>"])
_MAX_HEADER_CHARS = 256
"""What goes on for longer without a message is taken for one."""


class _Stage(Enum):
    BEFORE = auto()
    """Whether the answer begins with a header is not known yet."""
    HEADER = auto()
    REASONING = auto()
    ANSWER = auto()
    CALL = auto()


class ChannelParser:
    """Separates reasoning from the answer. Text that begins without a header belongs to the answer."""

    __slots__ = ("_buffer", "_passes_calls", "_stage")

    def __init__(self, passes_calls: bool = False) -> None:
        """`passes_calls`: calls of tools are part of the answer."""
        self._passes_calls = passes_calls
        self._buffer = ""
        self._stage = _Stage.BEFORE

    def push(self, text: str) -> tuple[str, str]:
        """Take more text; return what is sure to be reasoning, and what is answer."""
        self._buffer += text
        reasoning: list[str] = []
        answer: list[str] = []
        while True:
            match self._stage:
                case _Stage.BEFORE:
                    is_through = self._look_for_header()
                case _Stage.HEADER:
                    is_through = self._read_header(answer)
                case _Stage.REASONING:
                    is_through = self._read_body(reasoning)
                case _Stage.ANSWER | _Stage.CALL:
                    is_through = self._read_body(answer)
            if not is_through:
                return "".join(reasoning), "".join(answer)

    def flush(self) -> tuple[str, str]:
        """The text ended: what was held back."""
        rest, self._buffer = self._buffer, ""
        match self._stage:
            case _Stage.REASONING:
                return rest, ""
            case _Stage.ANSWER | _Stage.CALL:
                return "", rest
            case _:
                return "", ""

    def _look_for_header(self) -> bool:
        if any(each.startswith(self._buffer) for each in _BEGINNINGS):
            return False

        self._stage = _Stage.HEADER if self._buffer.startswith(_BEGINNINGS) else _Stage.ANSWER
        return True

    def _read_header(self, answer: list[str]) -> bool:
        header, mark, body = self._buffer.partition(_BODY)
        if not mark and len(header) <= _MAX_HEADER_CHARS:
            return False
        if not mark:
            self._buffer = _MARK.sub("", header)
            self._stage = _Stage.REASONING
            return True

        self._buffer = body
        called = _CALLED.findall(header) if self._passes_calls else []
        if called:
            answer.append(f"<|channel|>commentary to=functions.{called[-1]}{_BODY}")
            self._stage = _Stage.CALL
            return True

        channels = _CHANNEL.findall(header)
        channel = channels[-1] if channels else "final"
        is_said = channel == "final" or (channel == "commentary" and "to=" not in header)
        self._stage = _Stage.ANSWER if is_said else _Stage.REASONING
        return True

    def _read_body(self, said: list[str]) -> bool:
        found = [at for mark in _ENDS.strings if (at := self._buffer.find(mark)) >= 0]
        at = min(found, default=_ENDS.partial_start(self._buffer))
        said.append(self._buffer[:at])
        self._buffer = self._buffer[at:]
        if not found:
            return False

        if self._stage is _Stage.CALL:
            said.append("<|call|>")
        self._stage = _Stage.HEADER
        return True
