"""A kind of grammar in one file: answers of a given number of digits.

Requests ask for it with `"response_format": {"type": "digits", "digits": 4}`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from histrio.contracts.grammar import GrammarBackend, GrammarCapability, MaskRequest, Masks, VocabularySpec
from histrio.contracts.hooks import hookimpl
from histrio.errors import RequestError, UnsupportedModel
from histrio.messages import GrammarSpec

MOST_DIGITS = 100


class DigitsMatcher:
    """The state of one sequence: the digits it has said."""

    def __init__(self, num_digits: int, digits: frozenset[int], end_ids: frozenset[int]) -> None:
        self._num_digits, self._digits, self._end_ids = num_digits, digits, end_ids
        self.said: list[int] = []
        self.error = ""

    @property
    def is_finished(self) -> bool:
        """Whether the text has ended."""
        return len(self.said) > self._num_digits

    def allowed(self, drafts: Sequence[int] = ()) -> frozenset[int]:
        """The ids that may come behind what was said, and these."""
        return self._digits if len(self.said) + len(drafts) < self._num_digits else self._end_ids

    def advance(self, ids: Sequence[int]) -> bool:
        """These tokens came."""
        for token_id in ids:
            if token_id not in self.allowed():
                self.error = "this is no digit"
                return False
            self.said.append(token_id)
        return True

    def rollback(self, num_tokens: int) -> None:
        """The last ones did not come after all."""
        del self.said[len(self.said) - num_tokens :]

    def forced(self, max_tokens: int) -> list[int]:
        """Nothing but the end is ever the only choice, and that is drawn."""
        return []


class DigitTokens:
    """The digits among the tokens of one model."""

    def __init__(self, spec: VocabularySpec) -> None:
        vocabulary = json.loads((Path(spec.model) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        self._digits = frozenset(vocabulary[digit] for digit in "0123456789" if digit in vocabulary)
        if not self._digits or not spec.eos_ids:
            raise UnsupportedModel("the tokenizer has no tokens for single digits, or none that ends a text")
        self._end_ids = frozenset(spec.eos_ids)

    def matcher(self, spec: GrammarSpec) -> DigitsMatcher:
        """For one sequence."""
        return DigitsMatcher(int(spec.text), self._digits, self._end_ids)

    def fill(self, requests: Sequence[MaskRequest], masks: Masks) -> None:
        """One bit per token that may come."""
        for request in requests:
            assert isinstance(request.matcher, DigitsMatcher)
            for row in range(request.num_rows):
                ids = np.array(sorted(request.matcher.allowed(request.drafts[:row])))
                masks[request.first_row + row] = 0
                bits = np.left_shift(np.uint32(1), (ids % 32).astype(np.uint32))
                np.bitwise_or.at(masks[request.first_row + row].view(np.uint32), ids // 32, bits)


class Digits:
    """What is registered."""

    name = "digits"
    kinds: tuple[str, ...] = ("digits",)
    capabilities: tuple[GrammarCapability, ...] = ()

    def check(self, spec: GrammarSpec) -> None:
        """The text is the value of `digits` in the request."""
        if not spec.text.isdecimal() or not 1 <= int(spec.text) <= MOST_DIGITS:
            raise RequestError(f"must be a number of digits from 1 to {MOST_DIGITS}")

    def open(self, spec: VocabularySpec) -> DigitTokens:
        """Read the model's tokens."""
        return DigitTokens(spec)


@hookimpl
def register_grammars(register: Callable[[GrammarBackend], None]) -> None:
    """Called once at start-up."""
    register(Digits())
