"""llguidance as a grammar backend: which kinds there are, and how a vocabulary is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histrio.contracts.grammar import GrammarCapability, VocabularySpec
from histrio.errors import UnsupportedModel
from histrio.messages import GrammarSpec
from histrio_grammars.translate import to_llguidance, unenforced

if TYPE_CHECKING:
    from histrio_grammars.matcher import LlguidanceVocabulary

__all__ = ["Llguidance"]


class Llguidance:
    """The built-in grammars."""

    name = "llguidance"
    kinds: tuple[str, ...] = ("json_object", "json_schema", "regex", "choice", "lark", "gbnf", "structural_tag", "text")
    capabilities: tuple[GrammarCapability, ...] = tuple(GrammarCapability)

    def check(self, spec: GrammarSpec) -> tuple[str, ...]:
        """Bounds, keywords and syntax as far as reading tells; keywords of schemas that cannot be enforced are told.

        Raises `RequestError`.
        """
        to_llguidance(spec)
        return unenforced(spec)

    def open(self, spec: VocabularySpec) -> LlguidanceVocabulary:
        """Read tokenizer.json. Raises `UnsupportedModel`."""
        from histrio_grammars.matcher import LlguidanceVocabulary

        path = Path(spec.model) / "tokenizer.json"
        try:
            return LlguidanceVocabulary(path.read_text(encoding="utf-8"), spec)
        except (OSError, ValueError) as error:
            raise UnsupportedModel(f"{path}: grammars cannot use this tokenizer: {error}") from error
