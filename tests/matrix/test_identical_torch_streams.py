"""Whatever is on and in the way, an answer is the one that its request gets alone: tiny real architectures on torch.

Greedy answers without penalties are also compared with what transformers' own `generate` says. Log probabilities may be
off by `MOST_ERROR`: other company is another shape of a batch, whose sums a library adds up in another order. Where
that is the last bit before a number is rounded, its int8 code is the next one.
`HISTRIO_COMBINATIONS=50` plays so many random combinations more per drafter, each with a crowd of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.contracts.backend import StepBatch
from histrio.messages import Step
from histrio.stage.sampling import prompt_scores
from histrio.stage.sampling.logprobs import token_logprobs
from histrio.stage.slots import SlotTable
from histrio.testing.harness import HarnessOptions
from histrio.testing.models import EOS_ID, VOCAB_SIZE, write_tokenizer
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import Excuses, make_model, refer
from tests.matrix.covering import NUM_RANDOM, Combination, covering, random_combinations
from tests.matrix.crowds import Crowd, Run, differences, make_crowd, play, play_alone, with_forms
from tests.matrix.drafters import drafter_options, make_drafter, names
from tests.matrix.obstacles import (
    FACTORS,
    LONGEST,
    FailingFactory,
    KvCacheDtype,
    RandomOrder,
    met,
    not_met,
    options_of,
)

pytestmark = pytest.mark.timeout(120 + 10 * NUM_RANDOM)  # models are loaded anew for each combination

FAMILIES = ["qwen3", "llama"]
SIZES = {"vocab_size": VOCAB_SIZE, "eos_token_id": EOS_ID}
"""As the tokenizer has them, which grammars read."""
CROWDED = {
    "prefix_cache": True,
    "blocks": "few",
    "kv_block_size": 4,
    "max_batch_size": 32,
    "max_num_tokens_per_batch": 512,
    "bounds": {},
    "fails": False,
}
ROOMY = CROWDED | {"blocks": "some", "max_batch_size": 5, "fails": True}
CROWD = 4
"""Seed of a crowd that is short of blocks, shares prefixes and forks choices."""
ALONE = HarnessOptions(max_batch_size=1, chunked_prefill_size=512, prefix_cache=False, max_sequence_length=LONGEST)
# A real model takes a device's time to compute: fewer values, and those that meet the kernels.
TORCH_FACTORS: dict[str, list[Any]] = FACTORS | {
    "chunked_prefill_size": [16, 1_000_000],
    "max_batch_size": [5, 32],
    "kv_block_size": [4, 16],
    "blocks": ["few", "some"],
    "num_micro_batches": [1, 2],
    "speculation": [{}, {"adaptive": False, "speculation_length": 3}],
    "bounds": [{}, {"prefill_priority": 1}],
    "kv_cache_dtype": ["auto", "int8"],
    "policy": ["priority", RandomOrder.name],
    "family": FAMILIES,
}
UNMODELLED = ("dice", "ngram", "suffix")
"""Drafters for which no model computes: `oracle`, which is another, stands for them, as the toy meets them all."""
DRAFTERS = [pytest.param(name, marks=pytest.mark.thorough) if name in UNMODELLED else name for name in names()]
MOST_ERROR = {"auto": 2e-5, "int8": 1e-2}
Models = Callable[[str], tuple[Path, Any]]
"""Family → a folder, with a lesser model as `draft` beside it, and what transformers makes of the model."""
Alone = Callable[..., tuple[Crowd, Run]]
"""Family, seed, whether answers have forms, and number format → a crowd and what each of its requests gets alone."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    @cache
    def get(family: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(family)
        for name in ("draft", "model"):
            (folder / name).mkdir()
            write_tokenizer(folder / name)
        draft = make_model(family, folder / "draft", **SIZES)
        model = make_model(family, folder / "model", **SIZES)
        _blur(draft)
        draft.save_pretrained(folder / "draft")
        return folder / "model", model

    return get


@pytest.fixture(scope="module")
def alone(models: Models) -> Alone:
    @cache
    def get(
        family: str, seed: int, has_forms: bool = False, kv_cache_dtype: KvCacheDtype = "auto", size: int = 12
    ) -> tuple[Crowd, Run]:
        crowd = make_crowd(seed, VOCAB_SIZE - 2, num_requests=size, num_tokens=size)
        crowd = with_forms(crowd) if has_forms else crowd
        return crowd, anyio.run(play_alone, models(family)[0], factory(kv_cache_dtype), crowd, ALONE)

    return get


def _blur(model: Any) -> None:
    """Change all weights a little: it will often say the same, and not always."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))


def factory(kv_cache_dtype: KvCacheDtype, fails_at: set[int] | None = None) -> FailingFactory:
    return FailingFactory(TorchFactory(), fails_at or set(), kv_cache_dtype)


def played(model: Path, crowd: Crowd, row: Combination, drafter: str, seed: int, draft: Any) -> Run:
    options = options_of(
        row,
        seed,
        drafter=make_drafter(drafter, draft),
        drafter_options=drafter_options(drafter, model.parent / "draft", "torch"),
    )
    # A drafter's own stage counts along. One that has failed is not asked again, so the second failure is another's.
    fails_at = {20 + seed % 17, 40} if row["fails"] else set()
    return anyio.run(play, model, factory(row["kv_cache_dtype"], fails_at), crowd, options, row["cuts"])


def knower(crowd: Crowd, expected: Run) -> Callable[[list[int], int], list[int]]:
    """An oracle that has read the answers, and errs now and then."""
    texts = [[*crowd[index].submission.ids, *answer.tokens] for (index, _), answer in expected.answers.items()]

    def draft(ids: list[int], num_tokens: int) -> list[int]:
        found = next((text for text in texts if text[: len(ids)] == ids), ids)
        return [token if at % 3 < 2 else 7 for at, token in enumerate(found[len(ids) : len(ids) + num_tokens])]

    return draft


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_alone_is_what_transformers_says(family: str, models: Models, alone: Alone) -> None:
    crowd, expected = alone(family, 1)
    excuses = Excuses()
    for (index, choice), answer in expected.answers.items():
        submission = crowd[index].submission
        if submission.ask.sampling == {"temperature": 0.0} and choice == 0:
            reference = refer(models(family)[1], submission.ids, submission.max_new_tokens)
            excuses.compare(answer.tokens, reference.first(len(answer.tokens)))
            other = refer(models(family)[1], submission.ids[:-1], len(answer.tokens))
            assert answer.tokens != other.tokens or len(other.tokens) < 4, "a control: another prompt, other tokens"
    assert excuses.num_tokens > 20
    assert excuses.num_excused == 0


def design(drafter: str) -> list[Combination]:
    """Of the combinations in which every two settings meet, the ones of this drafter."""
    alike = [name for name in names() if (name in UNMODELLED) == (drafter in UNMODELLED)]
    return [row for row in covering(TORCH_FACTORS | {"drafter": alike}, seed=1) if row["drafter"] == drafter]


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_no_combination_changes_a_stream_of_a_real_model(drafter: str, models: Models, alone: Alone) -> None:
    seen: Counter[str] = Counter()
    rows = [(CROWD, row) for row in design(drafter)]
    # Some request is preempted in any case; and what is lost comes back.
    rows += [(CROWD, rows[0][1] | CROWDED), (CROWD, rows[0][1] | ROOMY)]
    rows += enumerate(random_combinations(TORCH_FACTORS, names().index(drafter), NUM_RANDOM), 1)
    # Whose prompt is computed when others come is a matter of time: further crowds where an obstacle was not met.
    further = [(CROWD + number, rows[0][1] | kind) for number in range(8) for kind in (CROWDED, ROOMY)]
    for number, (seed, row) in enumerate([*rows, *further]):
        if number >= len(rows) and not not_met(seen, drafter, may_end_before_preemption=True):
            break
        family = row["family"]
        size = 16 if drafter in ("ngram", "suffix") else 12  # nothing is repeated in short answers
        crowd, expected = alone(family, seed, row["has_forms"], row["kv_cache_dtype"], size)
        print(f"combination {number}: {row}")
        run = played(models(family)[0], crowd, row, drafter, number, knower(crowd, expected))
        found = differences(crowd, run, expected, MOST_ERROR[row["kv_cache_dtype"]])
        assert not found, f"{len(found)} answers differ with {drafter}: {found[0]}"
        seen.update(met(run))
    assert not not_met(seen, drafter, may_end_before_preemption=True), seen


PLAIN = covering(TORCH_FACTORS, seed=1)[0] | {
    "fails": False,
    "max_batch_size": 32,
    "has_forms": False,
    "kv_cache_dtype": "auto",
}


def _swaps_tables(self: SlotTable, step: Step) -> StepBatch:
    made = _BATCH(self, step)
    made.block_tables = made.block_tables[::-1]
    return made


_BATCH, _LOGPROBS = SlotTable.batch, token_logprobs
DEFECTS: dict[str, tuple[Any, str, Any]] = {
    "blocks of other rows": (SlotTable, "batch", _swaps_tables),
    "scores of other tokens": (
        prompt_scores,
        "token_logprobs",
        lambda xp, logits, ids, *args, **options: _LOGPROBS(xp, logits, [*ids[1:], *ids[:1]], *args, **options),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_changes_a_stream_of_a_real_model(
    defect: str, models: Models, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd, expected = alone("qwen3", CROWD)
    owner, name, broken = DEFECTS[defect]

    def found() -> list[str]:
        run = played(models("qwen3")[0], crowd, PLAIN, "none", 0, knower(crowd, expected))
        return differences(crowd, run, expected, MOST_ERROR["int8"])

    assert not found()
    monkeypatch.setattr(owner, name, broken)
    assert found()


def test_int8_blocks_change_log_probabilities(models: Models, alone: Alone) -> None:
    crowd, expected = alone("llama", CROWD)
    _, rounded = alone("llama", CROWD, kv_cache_dtype="int8")
    assert differences(crowd, rounded, expected, MOST_ERROR["int8"])
