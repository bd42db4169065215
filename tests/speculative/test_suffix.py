"""Suffix lookup: in the sequence itself, in the answers of others, and through all actors without changing a token."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from histrio.config.settings import SpeculationSettings
from histrio.config.tables import convert_table
from histrio.contracts.drafter import DrafterFactory
from histrio.contracts.gateway import Submission
from histrio.contracts.sampler import Sampler
from histrio.demo import target_path
from histrio.errors import TopologyError
from histrio.messages import Ask, Generate
from histrio.plugins.registry import installed_plugins
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.repetition_penalty import RepetitionPenalty
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_speculative.suffix import Suffix, SuffixFactory, SuffixOptions

NUM_TOKENS = 24
PASSAGES = (
    "The wooden clock whispers near the frozen lake, but 83 brave sailors follow the silver bridge to Oslo.",
    "Nobody opens the letter after the storm, because the kettle is bitter and the quiet moon is late again.",
)
ALWAYS = SpeculationSettings(speculation_length=4, adaptive=False)
"""Whatever steps cost on this machine."""
SHAPES: list[dict[str, Any]] = [{}, {"num_cache_blocks": 40}, {"num_micro_batches": 2}]
FIELDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 3},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_k": 2, "repetition_penalty": 1.1},
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def drafter(global_tokens: int = 1000) -> Suffix:
    return Suffix(SuffixOptions(global_tokens))


def opened(suffix: Suffix, request: int, prompt: list[int], answer: list[int], salt: str = "") -> None:
    ids = [*prompt, *answer]
    suffix.open(Generate(request, ids, len(prompt), 1000, Ask(cache_salt=salt)), ids)


def proposed(suffix: Suffix, request: int, num_tokens: int) -> list[int]:
    found = suffix.propose({request: num_tokens})
    return found[request].ids if found else []


# --- one sequence ----------------------------------------------------------------------------------------------------


def test_what_followed_before_is_proposed_again() -> None:
    suffix = drafter()
    opened(suffix, 1, [1, 2, 3, 4, 5, 9], [1, 2, 3])
    opened(suffix, 2, [1, 2, 3, 4, 5, 9], [1, 7, 3])
    assert proposed(suffix, 1, 3) == [4, 5, 9]
    assert proposed(suffix, 2, 3) == [], "a control: another tail"


def test_a_short_match_is_followed_for_a_few_tokens_only() -> None:
    suffix = drafter()
    text = list(range(10, 40))
    opened(suffix, 1, text, [10])
    opened(suffix, 2, text, [10, 11])
    opened(suffix, 3, text, [10, 11, 12])
    assert [len(proposed(suffix, request, 20)) for request in (1, 2, 3)] == [0, 6, 9]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=12), st.integers(1, 6))
def test_it_does_not_matter_how_the_tokens_came(begun: list[int], later: list[int], num_tokens: int) -> None:
    stepwise, whole = drafter(), drafter()
    opened(stepwise, 1, begun, [])
    for token in later:
        stepwise.propose({1: 2})
        stepwise.extend(1, [token])
    opened(whole, 1, begun + later, [])
    assert proposed(stepwise, 1, num_tokens) == proposed(whole, 1, num_tokens)


def test_a_long_prompt_is_taken_in_over_several_steps() -> None:
    suffix = drafter()
    opened(suffix, 1, list(range(2000)), [5, 6, 7])
    found = [proposed(suffix, 1, 2) for _ in range(5)]
    assert found == [[], [], [], [8, 9], [8, 9]]


def test_other_sequences_wait_while_a_long_prompt_is_taken_in_and_none_is_passed_over() -> None:
    suffix = drafter()
    opened(suffix, 1, list(range(600)), [5, 6, 7])
    opened(suffix, 2, list(range(10)), [5, 6, 7])
    rounds = [suffix.propose({1: 2, 2: 2}) for _ in range(2)]
    assert [sorted(found) for found in rounds] == [[], [1, 2]]


# --- answers of others -----------------------------------------------------------------------------------------------


def test_an_answer_of_one_request_is_proposed_to_the_next() -> None:
    suffix = drafter()
    opened(suffix, 1, [1, 2], [10, 11, 12, 13, 14])
    suffix.extend(1, [15, 16])
    opened(suffix, 2, [3], [10, 11, 12])
    assert proposed(suffix, 2, 4) == [], "not before it is finished"
    suffix.close(1)
    assert proposed(suffix, 2, 4) == [13, 14, 15, 16]
    suffix.extend(2, [13, 14])
    assert proposed(suffix, 2, 4) == [15, 16]
    suffix.extend(2, [99])
    assert proposed(suffix, 2, 4) == []


def test_prompts_are_not_remembered() -> None:
    suffix = drafter()
    opened(suffix, 1, [10, 11, 12, 13, 14, 15], [1, 2, 3, 4])
    suffix.close(1)
    opened(suffix, 2, [], [10, 11, 12])
    assert proposed(suffix, 2, 4) == []
    assert suffix.answers.num_tokens == 4


def test_the_longer_match_decides_between_the_sequence_and_the_answers() -> None:
    suffix = drafter()
    opened(suffix, 1, [], [10, 11, 12, 13, 50, 51])
    suffix.close(1)
    opened(suffix, 2, [], [9, 11, 12, 13, 60, 10, 11, 12, 13])
    opened(suffix, 3, [], [10, 11, 12, 13, 60, 10, 11, 12, 13])
    assert (proposed(suffix, 2, 1), proposed(suffix, 3, 1)) == ([50], [60])


def test_no_answer_is_proposed_to_a_request_of_another_salt() -> None:
    suffix = drafter()
    opened(suffix, 1, [], [10, 11, 12, 13, 14], salt="mine")
    suffix.close(1)
    for request, salt in enumerate(["", "yours", "mine"], 2):
        opened(suffix, request, [], [10, 11, 12], salt=salt)
    assert {request: draft.ids for request, draft in suffix.propose({2: 2, 3: 2, 4: 2}).items()} == {4: [13, 14]}


def test_answers_can_be_left_out_and_are_forgotten_at_the_end() -> None:
    for suffix in (drafter(0), drafter()):
        opened(suffix, 1, [], [10, 11, 12, 13, 14])
        suffix.close(1)
        suffix.shutdown()
        opened(suffix, 2, [], [10, 11, 12])
        assert proposed(suffix, 2, 2) == []


def test_its_options_are_checked_by_name_and_bound() -> None:
    assert convert_table({"global-tokens": 5}, SuffixOptions, "engine.drafter-options") == SuffixOptions(5)
    with pytest.raises(TopologyError, match="global-tokens"):
        convert_table({"global-token": 5}, SuffixOptions, "engine.drafter-options")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"global-tokens": -1}, SuffixOptions)


def test_it_is_registered_by_its_plugin() -> None:
    assert installed_plugins().drafters.get("suffix").options is SuffixOptions


# --- streams ---------------------------------------------------------------------------------------------------------


async def rounds(
    model: Path, factory: DrafterFactory | None, salts: tuple[str, str] = ("", ""), **options: Any
) -> tuple[list[list[list[int]]], list[float]]:
    """The same requests twice, four side by side each time; and the accepted tokens of each round."""
    settings = HarnessOptions(drafter=factory, speculation=ALWAYS, **options)
    streams: list[list[list[int]]] = []
    accepted = [0.0]
    samplers: list[type[Sampler]] = [Temperature, TopK, RepetitionPenalty]
    async with serving(model, ToyFactory(), samplers=samplers, options=settings) as harness:
        status = harness.gateway.status
        for salt in salts:
            got: dict[int, list[int]] = {}
            async with anyio.create_task_group() as tasks:
                for index in range(4):
                    tasks.start_soon(run, harness, index, salt, got)
            await eventually_async(lambda: not status.num_unfinished and not status.gauges.get("running_sequences"))
            streams.append([got[index] for index in range(4)])
            accepted.append(status.counters["accepted_tokens_total"])
    return streams, [after - before for before, after in pairwise(accepted)]


async def run(harness: Harness, index: int, salt: str, got: dict[int, list[int]]) -> None:
    prompt = [index + 1, 5, 6]
    (stream,) = harness.gateway.submit(Submission(prompt, NUM_TOKENS, Ask(FIELDS[index], seed=index, cache_salt=salt)))
    got[index] = [token async for delta in stream for token in delta.ids]


@pytest.mark.anyio
@pytest.mark.parametrize("options", SHAPES, ids=["plain", "short", "two"])
async def test_answers_that_are_given_again_are_drafted_and_no_token_changes(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = write_toy_model(tmp_path / "toy", num_layers=3)
    plain, without = await rounds(model, None, **options)
    drafted, accepted = await rounds(model, SuffixFactory(), **options)
    assert drafted == plain
    assert plain[0] == plain[1]
    assert len({tuple(tokens) for tokens in plain[0]}) == 4, "a control: other requests get other tokens"
    assert accepted[1] > accepted[0] + NUM_TOKENS
    assert without == [0, 0]


@pytest.mark.anyio
async def test_under_another_salt_the_same_answers_are_not_drafted(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy", num_layers=3)
    _, alike = await rounds(model, SuffixFactory(), ("mine", "mine"))
    _, apart = await rounds(model, SuffixFactory(), ("mine", "yours"))
    assert alike[1] > apart[1] + NUM_TOKENS, "a control: under the same one they are"
    assert apart[1] <= apart[0] + 4


# --- the demo model --------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.timeout(60)  # imports torch and computes 80 steps of the demo model on a machine that others use
async def test_the_demo_model_quotes_the_same_in_fewer_steps() -> None:
    pytest.importorskip("torch")
    plain, without = await quoted(None)
    drafted, totals = await quoted(SuffixFactory())
    assert drafted == plain
    assert plain[0] != plain[1], "a control: another passage is quoted otherwise"
    assert without["accepted_tokens_total"] == 0
    assert totals["accepted_tokens_total"] > 0.5 * totals["generated_tokens_total"]
    assert totals["steps_total"] < 0.6 * without["steps_total"]


async def quoted(factory: DrafterFactory | None) -> tuple[list[list[int]], dict[str, float]]:
    """Two passages, one after the other, and the engine's totals."""
    backend = installed_plugins().stage_backend("torch")
    settings = HarnessOptions(drafter=factory, speculation=ALWAYS)
    async with serving(target_path(), backend, samplers=[Temperature], options=settings) as harness:
        answers = [await harness.generate(quoting(passage), 20) for passage in PASSAGES]
        status = harness.gateway.status
        await eventually_async(lambda: not status.num_unfinished and not status.gauges.get("running_sequences"))
        return answers, dict(status.counters)


def quoting(passage: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(target_path() / "tokenizer.json"))
    text = (
        f"<|im_start|>user\nRepeat the following passage word for word:\n\n{passage}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids: list[int] = tokenizer.encode(text).ids
    return ids
