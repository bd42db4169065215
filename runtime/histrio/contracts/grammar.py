"""The grammar contract: what a request may demand of the form of its answer, and the backends that enforce it.

A `GrammarSpec` is plain data that travels with the request. The front checks it, so that what cannot be enforced is a
400; the last stage compiles it again, over the model's own vocabulary, into a `Matcher` per sequence. A matcher says
before every draw which tokens may come, and follows those that came. Nothing of it depends on the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.errors import PluginError, RequestError
from histrio.messages import GrammarSpec

__all__ = [
    "GrammarBackend",
    "GrammarCapability",
    "GrammarKinds",
    "MaskRequest",
    "Masks",
    "Matcher",
    "TagParameter",
    "TagSpec",
    "TagStructure",
    "Vocabulary",
    "VocabularySpec",
    "num_mask_words",
]

Masks = npt.NDArray[np.int32]
"""[rows, words] one bit per token: token t is bit t % 32 of word t // 32; 1 lets it through."""


class TagParameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One argument in a structure that writes each of them by itself: a value between two fixed texts."""

    begin: str
    end: str
    schema: dict[str, Any] | bool | None = None
    """The value is JSON after a schema."""
    texts: list[str] | None = None
    """The value is one of these texts. Without them and a schema it is any text that does not contain `stop`."""
    stop: str = ""
    is_required: bool = True
    name_end: str | None = None
    """Given: behind `begin` comes any name, then this, and the whole may come any number of times."""
    parameters: list[TagParameter] | None = None
    """Given: the value is these, in their order."""
    is_repeated: bool = False
    """It may come any number of times, also none."""


class TagStructure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a text that has a form: JSON after a schema, between two fixed texts."""

    begin: str
    """Starts with one of the triggers."""
    schema: dict[str, Any] | bool
    end: str
    parameters: list[TagParameter] | None = None
    """Given: these stand between the texts, in their order, instead of JSON; the schema is left aside."""
    separator: str = ""
    """Between two parameters."""
    unenforced: list[str] = []
    """Places in the schema of what the parameters cannot be held to; no grammar backend looks at it."""


class TagSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Text in which every trigger begins a structure, and nothing else does."""

    structures: list[TagStructure]
    triggers: list[str]
    """Texts that free text cannot contain; empty where there is no free text."""
    separator: str | None = None
    """Given: there is no free text, but one structure or several with this between them."""
    is_single: bool = False
    """At most one structure, which ends the text."""
    before: str = ""
    """With a separator: stands before the first structure. If there is a trigger, this begins with it, and free text
    may come before it or instead of it."""
    after: str = ""
    """With a separator: stands behind the last structure."""
    instead: GrammarSpec | None = None
    """With a separator and without triggers: the text may follow this grammar instead."""


class VocabularySpec(msgspec.Struct, frozen=True):
    """The tokens that a model can draw from."""

    model: str
    """Folder with tokenizer.json."""
    vocab_size: int
    """Width of the logits; ids beyond the tokenizer's own are padding, and no grammar lets them through."""
    eos_ids: tuple[int, ...]
    """Ids that end a text; allowed exactly where the grammar may end."""


class Matcher(Protocol):
    """The position of one sequence in its grammar. Used by one thread at a time."""

    @property
    def is_finished(self) -> bool:
        """Whether the text has ended, with one of the EOS ids."""

    @property
    def error(self) -> str:
        """Why the matcher can say no more, safe to show; empty as long as it can."""

    def advance(self, ids: Sequence[int]) -> bool:
        """The sequence gained these tokens. False if the grammar forbids one of them, an `error` from then on."""

    def rollback(self, num_tokens: int) -> None:
        """Take back the last `num_tokens` tokens, at most as many as came since the matcher was made."""

    def forced(self, max_tokens: int) -> list[int]:
        """The tokens that must come next, each the only one allowed; the state does not change."""


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """The masks of one sequence in one step: one for what comes next, one more after each draft."""

    matcher: Matcher
    first_row: int
    drafts: Sequence[int] = ()

    @property
    def num_rows(self) -> int:
        """Rows of the masks it takes."""
        return 1 + len(self.drafts)


class Vocabulary(Protocol):
    """Grammars over one model's tokens. Making one takes seconds, so there is one per last stage, made as it loads."""

    def matcher(self, spec: GrammarSpec) -> Matcher:
        """Compile. Raises `RequestError` as `GrammarBackend.check` does. Called on a thread of its own, while others
        call `fill`; it should release the GIL."""

    def fill(self, requests: Sequence[MaskRequest], masks: Masks) -> None:
        """Write the masks of all requests, each of another matcher.

        Rows after a draft that its grammar forbids stay as they are. A matcher that fails has its `error` set, and only
        EOS allowed. Releases the GIL; the matchers' states do not change.
        """


class GrammarCapability(StrEnum):
    """Abilities of a grammar backend beyond enforcing a grammar from the first token on."""

    REASONING = "reasoning"
    """Free reasoning may come first: `GrammarSpec.reasoning` is honoured."""
    REASONING_BUDGET = "reasoning_budget"
    """Reasoning may have a bound: `GrammarSpec.max_reasoning_tokens` is honoured."""


class GrammarBackend(Protocol):
    """A plugin registers it: it enforces some kinds of grammars. It is cheap to import and picklable."""

    name: str
    kinds: tuple[str, ...]
    capabilities: tuple[GrammarCapability, ...]
    """The core asks for no ability that is not declared; a backend without this attribute has none."""

    def check(self, spec: GrammarSpec) -> Iterable[str] | None:
        """Refuse a grammar that is too large, malformed or, as far as reading tells, not enforceable, before its trial.

        Raises `RequestError` with the place in the grammar as `param`, such as `properties.tags.uniqueItems`, and a
        text that names the keyword and repeats no value. What is not enforced, though the rest of the grammar is, is
        returned: such places, which the client is told.
        """

    def open(self, spec: VocabularySpec) -> Vocabulary:
        """Read the model's tokens. Raises `UnsupportedModel` for a tokenizer that it cannot read.

        Called on the last stage while it loads, and in a process that forks for each trial: there, threads that it
        starts do not exist in the forks.
        """


class GrammarKinds:
    """Which backend enforces which kind. Raises `PluginError` if two of them claim one."""

    def __init__(self, backends: Iterable[GrammarBackend]) -> None:
        self._backends: dict[str, GrammarBackend] = {}
        for backend in backends:
            for kind in backend.kinds:
                other = self._backends.setdefault(kind, backend)
                if other is not backend:
                    raise PluginError(
                        f"the grammars {other.name!r} and {backend.name!r} both enforce {kind!r}; uninstall one"
                    )

    @property
    def backends(self) -> list[GrammarBackend]:
        """All that enforce anything, each once."""
        return list({each.name: each for each in self._backends.values()}.values())

    @property
    def known(self) -> list[str]:
        """Every kind that is enforced, sorted."""
        return sorted(self._backends)

    def backend(self, spec: GrammarSpec) -> GrammarBackend:
        """The backend that enforces this grammar. Raises `RequestError` if none does, or if it lacks a capability."""
        if spec.kind not in self._backends:
            known = ", ".join(self.known) or "none"
            raise RequestError(f"grammars of this kind are not enforced here; known kinds: {known}")

        backend = self._backends[spec.kind]
        capabilities = getattr(backend, "capabilities", ())
        if spec.reasoning != "never" and GrammarCapability.REASONING not in capabilities:
            raise RequestError(
                f"the grammar backend {backend.name!r} does not declare {GrammarCapability.REASONING.value!r}: it "
                "enforces no form behind reasoning; ask for an answer that begins without one",
                code="unsupported_parameter",
            )
        if spec.max_reasoning_tokens is not None and GrammarCapability.REASONING_BUDGET not in capabilities:
            raise RequestError(
                f"the grammar backend {backend.name!r} does not declare {GrammarCapability.REASONING_BUDGET.value!r}: "
                "it cannot bound reasoning; leave the bound out",
                code="unsupported_parameter",
            )
        return backend


def num_mask_words(vocab_size: int) -> int:
    """Width of `Masks` over so many tokens."""
    return -(-vocab_size // 32)
