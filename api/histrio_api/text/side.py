"""The text side of a model: its tokenizer and its chat template, read together, before anything starts."""

from __future__ import annotations

from typing import NamedTuple

from histrio.contracts.gateway import ServedModel
from histrio_api.text.template import ChatTemplate, load_chat_template
from histrio_api.text.tokenizer import Tokenizer

__all__ = ["TextSide", "read_text_side"]


class TextSide(NamedTuple):
    """What turns requests into ids, and ids into answers."""

    tokenizer: Tokenizer
    template: ChatTemplate | None


def read_text_side(model: ServedModel) -> TextSide:
    """From the model's folder, which takes about 0.4 s. Raises `ModelError` with the name of the file at fault."""
    return TextSide(Tokenizer.load(model.path, model.bos_id), load_chat_template(model.path))
