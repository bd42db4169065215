"""Penalties that look at the last tokens alone, against transformers and plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.sampler import Sampler
from histrio_api.schemas.local_options import local_options
from histrio_samplers.occurrence_penalties import OccurrencePenalties
from histrio_samplers.repetition_penalty import RepetitionPenalty
from histrio_samplers.token_counts import TokenCounts

VOCAB = 40
RNG = np.random.default_rng(3)
IDS = RNG.integers(0, 12, 30).tolist()
LOGITS = (RNG.standard_normal((1, VOCAB)) * 4).astype(np.float32)

Shape = Callable[..., npt.NDArray[np.float32]]
Penalised = tuple[type[Sampler], dict[str, Any], str]
PENALTIES: list[Penalised] = [
    (RepetitionPenalty, {"repetition_penalty": 1.5}, "repeat_last_n"),
    (OccurrencePenalties, {"frequency_penalty": 0.5, "presence_penalty": 1.0}, "occurrence_last_n"),
]
each_penalty = pytest.mark.parametrize(("kind", "fields", "window"), PENALTIES, ids=["repetition", "occurrence"])


def counted(counts: TokenCounts, drafts: list[int]) -> dict[int, int]:
    tokens, found = counts.with_drafts(drafts)
    assert len(set(tokens.tolist())) == len(tokens), "each token once"
    return dict(zip(tokens.tolist(), found.astype(int).tolist(), strict=True))


@given(
    first=st.lists(st.integers(0, 5), max_size=8),
    added=st.lists(st.integers(0, 7), max_size=100),
    drafts=st.lists(st.integers(0, 7), max_size=6),
    window=st.sampled_from([-1, *range(1, 10)]),
)
def test_counts_are_those_of_the_last_tokens(
    first: list[int], added: list[int], drafts: list[int], window: int
) -> None:
    counts = TokenCounts(first, window)
    for token in added:
        counts.add(token)
    for following in (drafts, []):
        known = [*first, *added, *following]
        assert counted(counts, following) == Counter(known if window < 0 else known[max(0, len(known) - window) :])


@pytest.mark.parametrize("window", [1, 5, 12, 1000])
def test_a_window_of_the_repetition_penalty_equals_transformers_on_the_last_tokens(
    xp: ArrayNamespace, shape: Shape, window: int
) -> None:
    shaped = shape(xp, [RepetitionPenalty], LOGITS, [{"repetition_penalty": 1.5, "repeat_last_n": window}], ids=[IDS])
    processor = RepetitionPenaltyLogitsProcessor(1.5)
    expected = np.asarray(processor(torch.tensor([IDS[-window:]]), torch.tensor(LOGITS)))
    np.testing.assert_allclose(shaped, expected, rtol=1e-6)
    whole = shape(xp, [RepetitionPenalty], LOGITS, [{"repetition_penalty": 1.5}], ids=[IDS])
    assert np.array_equal(shaped, whole) == (window == 1000)


def test_a_window_of_presence_and_frequency_counts_the_prompt_too(xp: ArrayNamespace, shape: Shape) -> None:
    fields = {"presence_penalty": 0.7, "frequency_penalty": 0.3, "occurrence_last_n": 9}
    shaped = shape(xp, [OccurrencePenalties], LOGITS, [fields], ids=[IDS], num_prompt_tokens=[len(IDS) - 2])
    expected = LOGITS.copy()
    for token, count in Counter(IDS[-9:]).items():
        expected[0, token] -= 0.7 + 0.3 * count
    np.testing.assert_allclose(shaped, expected, rtol=1e-5)


@each_penalty
def test_no_window_and_a_window_of_nothing(
    xp: ArrayNamespace, shape: Shape, kind: type[Sampler], fields: dict[str, Any], window: str
) -> None:
    def shaped(last_n: int) -> npt.NDArray[np.float32]:
        return shape(xp, [kind], LOGITS, [fields | {window: last_n}], ids=[IDS], num_prompt_tokens=[0])

    assert np.array_equal(shaped(0), LOGITS)
    assert np.array_equal(shaped(-1), shape(xp, [kind], LOGITS, [fields], ids=[IDS], num_prompt_tokens=[0]))
    assert not np.array_equal(shaped(-1), LOGITS), "a control"


@each_penalty
def test_drafts_and_tokens_that_were_drawn_move_the_window_on(
    xp: ArrayNamespace, shape: Shape, kind: type[Sampler], fields: dict[str, Any], window: str
) -> None:
    """As after a restart, where all of them are known from the beginning."""
    own, known, more = fields | {window: 7}, IDS[:20], IDS[20:]
    expected = shape(xp, [kind], LOGITS, [own], ids=[IDS], num_prompt_tokens=[20])
    for split in ({"observed": [more]}, {"drafts": [more]}, {"observed": [more[:4]], "drafts": [more[4:]]}):
        assert np.array_equal(expected, shape(xp, [kind], LOGITS, [own], ids=[known], num_prompt_tokens=[20], **split))
    assert not np.array_equal(expected, shape(xp, [kind], LOGITS, [own], ids=[known], num_prompt_tokens=[20]))


def test_the_window_of_local_servers_is_that_of_all_penalties() -> None:
    penalties = {"repeat_penalty": 1.2, "presence_penalty": 0.5}
    assert local_options(penalties | {"repeat_last_n": 8}) == penalties | {"repeat_last_n": 8, "occurrence_last_n": 8}
    assert local_options(penalties) == penalties
    assert local_options({"repeat_penalty": 1.2, "repeat_last_n": 8}) == {"repeat_penalty": 1.2, "repeat_last_n": 8}
    assert local_options({"repeat_penalty": 1.0, "presence_penalty": 0, "repeat_last_n": 8}) == {
        "repeat_penalty": 1.0,
        "presence_penalty": 0,
    }
