"""One small byte-level vocabulary: every token is one byte, so what may come next can be checked one by one.

Models that are served have the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from histrio.contracts.backend import BackendFactory
from histrio.contracts.grammar import MaskRequest, Matcher, Vocabulary, VocabularySpec, num_mask_words
from histrio.messages import GrammarSpec
from histrio.testing.models import write_model
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_grammars.backend import Llguidance
from histrio_torch.factory import TorchFactory

NUM_IDS, PADDED = 258, 300
EOS = 257


@dataclass(repr=False)
class Toy:
    """The toy model's tokens, with padding behind them as real models have."""

    spec: VocabularySpec
    vocabulary: Vocabulary
    tokenizer: tokenizers.Tokenizer

    def ids(self, text: str) -> list[int]:
        """One id per byte."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The bytes as text."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def matcher(self, kind: str, text: str, so_far: str | Sequence[int] = "") -> Matcher:
        """A matcher behind `so_far`, text or ids, which must be possible."""
        matcher = self.vocabulary.matcher(GrammarSpec(kind, text))
        assert matcher.advance(self.ids(so_far) if isinstance(so_far, str) else so_far)
        return matcher

    def allowed(self, matcher: Matcher, drafts: Sequence[int] = ()) -> list[set[int]]:
        """Ids that may come next, and after each draft."""
        masks = np.full((1 + len(drafts), num_mask_words(self.spec.vocab_size)), -1, np.int32)
        self.vocabulary.fill([MaskRequest(matcher, 0, drafts)], masks)
        bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")
        return [set(np.flatnonzero(row).tolist()) for row in bits]

    def takes(self, kind: str, text: str, answer: str) -> bool:
        """Whether the whole of `answer` follows the grammar."""
        return self.vocabulary.matcher(GrammarSpec(kind, text)).advance([*self.ids(answer), EOS])


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = write_toy_model(tmp_path_factory.mktemp("grammars") / "toy")
    return open_toy(folder)


def open_toy(folder: Path) -> Toy:
    spec = VocabularySpec(str(folder), PADDED, (EOS,))
    return Toy(spec, Llguidance().open(spec), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two layers, to be split."""
    return write_toy_model(tmp_path_factory.mktemp("served") / "toy", num_layers=2)


@pytest.fixture(params=["toy", "torch"])
def served(request: pytest.FixtureRequest, toy_model: Path, tmp_path: Path) -> tuple[Path, BackendFactory]:
    """The toy, and a Llama of random weights with the same tokens."""
    if request.param == "toy":
        return toy_model, ToyFactory()
    return write_model("llama", tmp_path / "llama"), TorchFactory()
