"""Tokens that a grammar leaves alone need no step of their own, and nothing but the number of steps shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from histrio.contracts.backend import BackendFactory, StageOutput
from histrio.contracts.gateway import Submission
from histrio.contracts.grammar import GrammarKinds, VocabularySpec
from histrio.messages import Ask, GrammarSpec, Open, RequestState, Row, Step
from histrio.stage.sampling.grammar_table import GrammarTable
from histrio.stage.sampling.last_stage import MAX_FORCED_TOKENS, LastStage
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.models import EOS_ID
from histrio.testing.toy import ToyFactory
from histrio.testing.wait import eventually_async
from histrio_grammars.backend import Llguidance
from histrio_grammars.matcher import LlguidanceMatcher
from histrio_samplers.plugin import SAMPLERS

pytestmark = [pytest.mark.anyio, pytest.mark.slow_start, pytest.mark.timeout(90)]

NAMES = ["circumference", "centre of gravity", "number of corners"]
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0, "maximum": 999} for name in NAMES},
        "required": NAMES,
        "additionalProperties": False,
    }
)
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.2, "top_p": 0.95},
    "penalized": {"temperature": 1.0, "repetition_penalty": 1.5, "presence_penalty": 1.0, "dry_multiplier": 2.0},
    "mirostat": {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 2.0},
    "constrained": {"temperature": 1.0, "bad_words_ids": [[1, 2, 3]]},
}
Answer = tuple[list[int], RequestState]


class _Deaf(Llguidance):
    """Enforces the same and knows no forced tokens: the control."""

    def open(self, spec: VocabularySpec) -> Any:
        vocabulary = super().open(spec)
        made = vocabulary.matcher

        def matcher(spec: GrammarSpec) -> LlguidanceMatcher:
            found = made(spec)
            found.forced = lambda max_tokens: []  # type: ignore[method-assign]
            return found

        vocabulary.matcher = matcher  # type: ignore[method-assign]
        return vocabulary


async def run_all(
    served: tuple[Path, BackendFactory], grammars: Llguidance, asked: Sequence[Submission], **options: Any
) -> tuple[list[Answer], float]:
    """Answers, one request after the other, and the steps they took together."""
    async with serving(
        *served, samplers=list(SAMPLERS), grammars=[grammars], options=HarnessOptions(**options)
    ) as harness:
        found = [await harness.run(submission) for submission in asked]
        await counted(harness, found)
        return found, harness.gateway.status.counters["steps_total"]


async def counted(harness: Harness, answers: Sequence[Answer]) -> None:
    """Until the counters know of all these tokens."""
    counters, num_tokens = harness.gateway.status.counters, sum(len(ids) for ids, _ in answers)
    await eventually_async(lambda: counters.get("generated_tokens_total", 0) >= num_tokens)


def ask(grammar: GrammarSpec, num_tokens: int = 200, **fields: Any) -> Submission:
    own: dict[str, Any] = {"eos_ids": [EOS_ID], "seed": 3, "grammar": grammar}
    return Submission([7, 1, 3], num_tokens, Ask(**own | fields))


async def test_the_same_tokens_come_in_fewer_steps(served: tuple[Path, BackendFactory]) -> None:
    for name, sampling in SAMPLINGS.items():
        asked = [ask(GrammarSpec("json_schema", SCHEMA), sampling=sampling)]
        found, num_steps = await run_all(served, Llguidance(), asked)
        expected, num_plain_steps = await run_all(served, _Deaf(), asked)
        assert found == expected
        ((ids, state),) = found
        assert state is RequestState.FINISHED_EOS
        assert num_plain_steps == len(ids)
        if name == "constrained":
            assert num_steps == num_plain_steps, "a constraint might forbid even a token that is the only one"
        else:
            assert num_steps < num_plain_steps / 2


@pytest.mark.parametrize("disturbance", ["restarts", "preemption"])
async def test_a_jump_survives_restarts_and_preemption(toy_model: Path, disturbance: str) -> None:
    asked = [ask(GrammarSpec("json_schema", SCHEMA), sampling=SAMPLINGS[name], seed=5) for name in SAMPLINGS]
    expected, _ = await run_all((toy_model, ToyFactory()), _Deaf(), asked)
    is_restarted = disturbance == "restarts"
    options = HarnessOptions(
        num_cache_blocks=256 if is_restarted else 52, stage_options={"fail-at-step": 30 * is_restarted, "fail-times": 1}
    )
    found: dict[int, Answer] = {}
    async with serving(
        toy_model, ToyFactory(), samplers=list(SAMPLERS), grammars=[Llguidance()], cuts=[1], options=options
    ) as harness:

        async def run(index: int) -> None:
            found[index] = await harness.run(asked[index])

        async with anyio.create_task_group() as tasks:
            for index in range(len(asked)):
                tasks.start_soon(run, index)
        assert (harness.gateway.status.num_replays > 0) == is_restarted
        if not is_restarted:
            await counted(harness, list(found.values()))
            assert harness.gateway.status.counters["preemptions_total"] > 0
    assert [found[index] for index in range(len(asked))] == expected


async def test_a_jump_is_bounded_and_never_passes_an_end(toy_model: Path) -> None:
    served = toy_model, ToyFactory()
    run = GrammarSpec("regex", "a{60}")
    ((whole, state),), num_steps = await run_all(served, Llguidance(), [ask(run)])
    assert (len(whole), whole[-1], state) == (61, EOS_ID, RequestState.FINISHED_EOS)
    assert num_steps == -(-61 // (1 + MAX_FORCED_TOKENS))

    ((ids, state),), num_steps = await run_all(served, Llguidance(), [ask(run, num_tokens=10)])
    assert (ids, state, num_steps) == (whole[:10], RequestState.FINISHED_MAX_LENGTH, 1)

    stop = GrammarSpec("regex", "aaabaaa")
    ((ids, _),), _ = await run_all(served, Llguidance(), [ask(stop)])
    ((cut, state),), _ = await run_all(served, Llguidance(), [ask(stop, stop_ids=[ids[3]])])
    assert (cut, state) == (ids[:4], RequestState.FINISHED_STOP)

    chunked, _ = await run_all(served, Llguidance(), [ask(run)], chunked_prefill_size=3, max_num_tokens_per_batch=5)
    assert chunked == [(whole, RequestState.FINISHED_EOS)]


async def test_every_token_has_its_log_probability_where_they_are_asked_for(toy_model: Path) -> None:
    grammar = GrammarSpec("json_schema", SCHEMA)
    found: dict[str, dict[int | None, tuple[list[int], list[float]]]] = {}
    for kind in (Llguidance, _Deaf):
        each = found.setdefault(kind.__name__, {})
        async with serving(toy_model, ToyFactory(), samplers=list(SAMPLERS), grammars=[kind()]) as harness:

            async def run(num_logprobs: int | None, harness: Any = harness, each: Any = each) -> None:
                (stream,) = harness.gateway.submit(ask(grammar, seed=8, num_logprobs=num_logprobs))
                deltas = [delta async for delta in stream]
                each[num_logprobs] = (
                    [token for delta in deltas for token in delta.ids],
                    [each.logprob for delta in deltas for each in delta.extras.logprobs],
                )

            async with anyio.create_task_group() as tasks:
                for num_logprobs in (None, 0, 2, None):
                    tasks.start_soon(run, num_logprobs)
    assert found["Llguidance"] == found["_Deaf"]
    ids, logprobs = found["Llguidance"][2]
    assert len(logprobs) == len(ids)
    assert len(set(logprobs)) > len(ids) // 2
    assert found["Llguidance"][None] == (ids, []), "a control: nothing comes that was not asked for"


@pytest.fixture
def last_stage(toy_model: Path) -> Any:
    vocabulary = VocabularySpec(str(toy_model), 258, (EOS_ID,))
    made = LastStage(SamplerChain(list(SAMPLERS), 2), GrammarTable(GrammarKinds([Llguidance()]), vocabulary))
    yield made
    made.shutdown()


def draw(last_stage: LastStage, rows: list[Row], drafts: list[int], favoured: int) -> Any:
    step = Step(1, 1, rows, [], drafts=drafts)
    logits = np.zeros((sum(row.num_sampled for row in rows), 258), np.float32)
    logits[:, favoured] = 5
    last_stage.begin(step)
    return last_stage.draw(NumpyArrays(), StageOutput([], logits), step)


def test_only_rows_whose_drafts_were_all_right_jump(last_stage: LastStage, toy: Any) -> None:
    a, b, x, y, z, p = toy.ids("abxyzp")
    for slot in (0, 1):
        grammar = GrammarSpec("regex", "[ab]xyz[cd]xyz") if slot == 0 else None
        last_stage.open(Open(slot, [5], 1, Ask({"temperature": 0}, grammar=grammar)))
    free = Row(1, 0, 1, 1)
    result = draw(last_stage, [Row(0, 0, 3, 3), free], [a, x], favoured=a)
    assert (result.ids, result.num_ids) == ([a, x, y, z, a], [4, 1])

    last_stage.open(Open(0, [5], 1, Ask({"temperature": 0}, grammar=GrammarSpec("regex", "[ab]xyz[cd]xyz"))))
    result = draw(last_stage, [free, Row(0, 0, 3, 3)], [b, x], favoured=a)
    assert (result.ids, result.num_ids) == ([a, a], [1, 1]), "the slot stands behind a draft that did not come"
    result = draw(last_stage, [Row(0, 1, 1, 1)], [], favoured=p)
    assert (result.ids, result.num_ids) == ([x, y, z], [3])


def test_a_draft_of_the_end_ends_the_text_and_tokens_behind_it_do_no_harm(last_stage: LastStage, toy: Any) -> None:
    a, b = toy.ids("ab")
    for drafts in ([a, EOS_ID], [a, EOS_ID, b], [EOS_ID, a]):
        last_stage.open(Open(0, [5], 1, Ask({"temperature": 0}, grammar=GrammarSpec("regex", "ab?"))))
        result = draw(last_stage, [Row(0, 0, 1 + len(drafts), 1 + len(drafts))], drafts, favoured=EOS_ID)
        assert result.ids[:2] == ([a, EOS_ID] if drafts[0] == a else [a])
        assert result.extras == {}

    result = draw(last_stage, [Row(0, 1, 1, 1)], [], favoured=b)
    assert result.ids == [b, EOS_ID], "a draft of the end that was wrong left nothing behind"
    last_stage.open(Open(0, [5], 1, Ask({"temperature": 0}, grammar=GrammarSpec("regex", "(broken"))))
    assert draw(last_stage, [Row(0, 0, 1, 1)], [], favoured=a).extras.keys() == {0}, "a control: there are failures"
