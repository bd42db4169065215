"""The bytes that one token stands for, whatever its neighbours are.

Decoding a token alone would not do: half a character decodes to a replacement mark, and some decoders drop the space
that a text begins with. So the vocabulary's spelling is read as the tokenizer's decoder reads it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

__all__ = ["TokenBytes", "decoder_parts", "shown_bytes"]

_WHOLE_TEXT = {"Fuse", "Strip"}
"""Decoders that join pieces or trim the text's ends: they change no piece."""


class TokenBytes:
    """Bytes of the ids of one tokenizer; of an id outside its vocabulary there are none."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = False
        self._has_byte_tokens = False
        self._is_known = tokenizer.decoder is not None
        self._replacements: list[tuple[str, str]] = []
        for part in decoder_parts(tokenizer.decoder):
            self._read(part)

    def __call__(self, token_id: int) -> bytes:
        """In a text, the bytes of all tokens follow each other."""
        spelling: str | None = self._tokenizer.id_to_token(token_id)
        if spelling is None:
            return b""
        if not self._is_known:
            alone: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
            return alone.encode()

        for old, new in self._replacements:
            spelling = spelling.replace(old, new)
        if self._is_byte_level:
            return _from_byte_level(spelling)
        if self._has_byte_tokens and (byte := _BYTE_TOKEN.fullmatch(spelling)):
            return bytes.fromhex(byte[1])
        return spelling.encode()

    def is_byte(self, token_id: int) -> bool:
        """Whether an id stands for one byte, which only makes a text together with its neighbours."""
        spelling: str | None = self._tokenizer.id_to_token(token_id)
        return self._has_byte_tokens and spelling is not None and _BYTE_TOKEN.fullmatch(spelling) is not None

    def _read(self, part: dict[str, Any]) -> None:
        match part["type"]:
            case "ByteLevel":
                self._is_byte_level = True
            case "ByteFallback":
                self._has_byte_tokens = True
            case "Metaspace":
                self._replacements.append((part["replacement"], " "))
            case "Replace" if "String" in part["pattern"]:
                self._replacements.append((part["pattern"]["String"], part["content"]))
            case kind if kind not in _WHOLE_TEXT:
                self._is_known = False


def decoder_parts(decoder: Any) -> list[dict[str, Any]]:
    """The decoder's steps in order; what it pickles is its part of tokenizer.json."""
    if decoder is None:
        return []
    pending: list[dict[str, Any]] = [json.loads(decoder.__getstate__())]
    parts: list[dict[str, Any]] = []
    while pending:
        part = pending.pop(0)
        if part["type"] == "Sequence":
            pending = part["decoders"] + pending
        else:
            parts.append(part)
    return parts


def shown_bytes(token: bytes) -> str:
    """A token as text; what is no whole text becomes `bytes:\\xe2\\x80`, so that tokens stay apart."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _from_byte_level(spelling: str) -> bytes:
    """As the decoder has it: a spelling with a character outside the alphabet, of an added token, is plain text."""
    try:
        return bytes([_BYTE_OF[char] for char in spelling])
    except KeyError:
        return spelling.encode()


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write for bytes: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTE_OF = _byte_alphabet()
