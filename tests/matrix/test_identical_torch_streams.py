"""Whatever is on and in the way, an answer is the one that its request gets alone: tiny real architectures on torch.

Greedy answers without penalties are also compared with what transformers' own `generate` says.
`HISTRIO_COMBINATIONS=50` plays so many random combinations more per drafter and family, each with a crowd of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from covering import NUM_RANDOM, Combination, covering, shared_out
from crowds import Crowd, Run, differences, make_crowd, play, play_alone
from drafters import drafter_options, make_drafter, names
from obstacles import FACTORS, LONGEST, FailingFactory, options_of

from histrio.backend import StepBatch
from histrio.engine.slots import SlotTable
from histrio.messages import Step
from histrio.testing.harness import HarnessOptions
from histrio.testing.models import write_tokenizer
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import VOCAB_SIZE, Excuses, make_model, refer

pytestmark = pytest.mark.timeout(120 + 10 * NUM_RANDOM)  # models are loaded anew for each combination

FAMILIES = ["qwen3", "llama"]
CROWDED = {"blocks": "few", "block_size": 4, "max_rows": 32, "max_step_tokens": 512, "bounds": {}, "fails": False}
CROWD = 4
"""Seed of a crowd that is short of blocks, shares prefixes and forks choices."""
ALONE = HarnessOptions(max_rows=1, prefill_chunk=512, has_prefix_cache=False, max_sequence_length=LONGEST)
# A real model takes a device's time to compute: fewer values, and those that meet the kernels.
TORCH_FACTORS: dict[str, list[Any]] = FACTORS | {
    "prefill_chunk": [16, 1_000_000],
    "max_rows": [5, 32],
    "block_size": [4, 16],
    "blocks": ["few", "some"],
    "num_micro_batches": [1, 2],
    "speculation": [{}, {"is_adaptive": False, "length": 3}],
    "bounds": [{}, {"prompts_first": True}],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Family → a folder, with a lesser model as `draft` beside it, and what transformers makes of the model."""

    @cache
    def get(family: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(family)
        for name in ("draft", "model"):
            (folder / name).mkdir()
            write_tokenizer(folder / name)
        draft = make_model(family, folder / "draft")
        model = make_model(family, folder / "model")
        _blur(draft)
        draft.save_pretrained(folder / "draft")
        return folder / "model", model

    return get


@pytest.fixture(scope="module")
def alone(models: Callable[[str], tuple[Path, Any]]) -> Callable[[str, int], tuple[Crowd, Run]]:
    """Family and seed → a crowd and what each of its requests gets alone."""

    @cache
    def get(family: str, seed: int) -> tuple[Crowd, Run]:
        crowd = make_crowd(seed, VOCAB_SIZE, num_requests=16, num_tokens=16)
        return crowd, anyio.run(play_alone, models(family)[0], TorchFactory(), crowd, ALONE)

    return get


def _blur(model: Any) -> None:
    """Change all weights a little: it will often say the same, and not always."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))


def played(model: Path, crowd: Crowd, row: Combination, drafter: str, seed: int, guess: Any) -> Run:
    options = options_of(
        row,
        seed,
        drafter=make_drafter(drafter, guess),
        drafter_options=drafter_options(drafter, model.parent / "draft", "torch"),
    )
    fails_at = {20 + seed % 17} if row["fails"] else set()
    return anyio.run(play, model, FailingFactory(TorchFactory(), fails_at), crowd, options, row["cuts"])


def knower(crowd: Crowd, wanted: Run) -> Callable[[list[int], int], list[int]]:
    """An oracle that has read the answers, and errs now and then."""
    texts = [[*crowd[index].submission.ids, *answer.tokens] for (index, _), answer in wanted.answers.items()]

    def guess(ids: list[int], num_tokens: int) -> list[int]:
        found = next((text for text in texts if text[: len(ids)] == ids), ids)
        return [token if at % 3 < 2 else 7 for at, token in enumerate(found[len(ids) : len(ids) + num_tokens])]

    return guess


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_alone_is_what_transformers_says(
    family: str, models: Callable[[str], tuple[Path, Any]], alone: Callable[[str, int], tuple[Crowd, Run]]
) -> None:
    crowd, wanted = alone(family, 1)
    excuses = Excuses()
    for (index, choice), answer in wanted.answers.items():
        submission = crowd[index].submission
        if submission.sampling == {"temperature": 0.0} and choice == 0:
            reference = refer(models(family)[1], submission.ids, submission.max_new_tokens)
            excuses.compare(answer.tokens, reference.first(len(answer.tokens)))
            other = refer(models(family)[1], submission.ids[:-1], len(answer.tokens))
            assert answer.tokens != other.tokens or len(other.tokens) < 4, "a control: another prompt, other tokens"
    assert excuses.num_tokens > 20
    assert excuses.num_excused == 0


@pytest.mark.parametrize("drafter", names())
@pytest.mark.parametrize("family", FAMILIES if NUM_RANDOM else ["both"])
def test_no_combination_changes_a_stream_of_a_real_model(
    family: str,
    drafter: str,
    models: Callable[[str], tuple[Path, Any]],
    alone: Callable[[str, int], tuple[Crowd, Run]],
) -> None:
    seen: Counter[str] = Counter()
    rows = shared_out(TORCH_FACTORS, seed=1, index=names().index(drafter))
    rows.append(rows[0] | CROWDED)  # somebody gives way in any case
    for number, row in enumerate(rows):
        each = family if NUM_RANDOM else FAMILIES[number % 2]
        crowd, wanted = alone(each, number + 1 if NUM_RANDOM else CROWD)
        print(f"combination {number} of {each}: {row}")
        run = played(models(each)[0], crowd, row, drafter, number, knower(crowd, wanted))
        found = differences(crowd, run, wanted)
        assert not found, f"{len(found)} answers differ with {drafter}: {found[0]}"
        seen.update({name: int(total) for name, total in run.totals.items()})
        seen.update(cached=run.num_cached_tokens, replays=run.num_replays)
    assert min(seen["cached"], seen["forked_sequences_total"], seen["replays"]) > 0, seen
    # Where guesses come true, answers may have ended before blocks are short.
    assert drafter != "nobody" or seen["preemptions_total"] > 0, seen
    assert drafter == "nobody" or 0 < seen["accepted_tokens_total"] < seen["drafted_tokens_total"], seen


def test_pages_of_other_rows_change_a_stream_of_a_real_model(
    models: Callable[[str], tuple[Path, Any]],
    alone: Callable[[str, int], tuple[Crowd, Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd, wanted = alone("qwen3", CROWD)
    row = covering(TORCH_FACTORS, seed=1)[0] | {"fails": False, "max_rows": 32}
    guess, batch = knower(crowd, wanted), SlotTable.batch
    assert not differences(crowd, played(models("qwen3")[0], crowd, row, "nobody", 0, guess), wanted)

    def swapped(self: SlotTable, step: Step) -> StepBatch:
        made = batch(self, step)
        made.block_tables = made.block_tables[::-1]
        return made

    monkeypatch.setattr(SlotTable, "batch", swapped)
    assert differences(crowd, played(models("qwen3")[0], crowd, row, "nobody", 0, guess), wanted)
