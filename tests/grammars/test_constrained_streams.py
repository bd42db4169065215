"""Grammars in a running replica: answers keep to them whatever the model, the split, the company or the disturbance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
import tokenizers
from msgspec.structs import replace

from histrio.contracts.backend import BackendFactory
from histrio.contracts.gateway import Delta, Submission
from histrio.errors import RequestError
from histrio.messages import Ask, GrammarSpec, RequestState
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.models import EOS_ID
from histrio.testing.scripted_drafter import DraftFunction, ScriptedDrafterFactory
from histrio.testing.toy import ToyFactory
from histrio.testing.wait import eventually_async
from histrio_grammars.backend import Llguidance
from histrio_samplers.plugin import SAMPLERS

pytestmark = [pytest.mark.anyio, pytest.mark.slow_start, pytest.mark.timeout(90)]

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["circle", "square"]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": -99, "maximum": 99}, "maxItems": 3},
        "name": {"type": "string", "maxLength": 5},
    },
    "required": ["kind", "sizes", "name"],
    "additionalProperties": False,
}
REGEX = "[a-f]{2,6}-[0-9]{3}"
LARK = 'start: word ("," word){0,3} "."\nword: /[a-c]{1,3}/ | "(" word ")"'


def follows_schema(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text)))


def follows_lark(text: str) -> bool:
    word = r"\(*[a-c]{1,3}\)*"
    return re.fullmatch(rf"{word}(,{word}){{0,3}}\.", text) is not None and text.count("(") == text.count(")")


FORMS: dict[str, tuple[GrammarSpec, Callable[[str], bool]]] = {
    "json_schema": (GrammarSpec("json_schema", json.dumps(SCHEMA)), follows_schema),
    "json_object": (GrammarSpec("json_object", ""), lambda text: isinstance(json.loads(text), dict)),
    "regex": (
        GrammarSpec("regex", "[a-f]{2,6}-[0-9]{3}"),
        lambda text: bool(re.fullmatch("[a-f]{2,6}-[0-9]{3}", text)),
    ),
    "choice": (GrammarSpec("choice", '["yes","no","not now"]'), lambda text: text in ("yes", "no", "not now")),
    "lark": (GrammarSpec("lark", LARK), follows_lark),
}
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.5, "repetition_penalty": 1.3},
    {"temperature": 1.0, "mirostat": 2},
]
NUM_TOKENS = 240
Answer = tuple[list[int], RequestState]


def submissions(form: str) -> list[Submission]:
    """One for each way of sampling."""
    spec = FORMS[form][0]
    return [
        Submission([7, seed, 3], NUM_TOKENS, Ask(sampling, eos_ids=[EOS_ID], seed=seed, grammar=spec))
        for seed, sampling in enumerate(SAMPLINGS)
    ]


FREE = [
    Submission([9, seed, 1, 2], 40, Ask(sampling | {"temperature": 0.8 * (seed % 2)}, seed=seed))
    for seed, sampling in enumerate(SAMPLINGS)
]


async def answers(harness: Harness, asked: list[Submission]) -> list[Answer]:
    """All at the same time."""
    found: dict[int, Answer] = {}

    async def run(index: int) -> None:
        found[index] = await harness.run(asked[index])

    async with anyio.create_task_group() as tasks:
        for index in range(len(asked)):
            tasks.start_soon(run, index)
    return [found[index] for index in range(len(asked))]


def text_of(folder: Path, ids: list[int]) -> str:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return str(tokenizer.decode([token for token in ids if token != EOS_ID], skip_special_tokens=False))


def serve(served: tuple[Path, BackendFactory], cuts: list[int] | None = None, **options: Any) -> Any:
    model, factory = served
    return serving(
        model,
        factory,
        samplers=list(SAMPLERS),
        grammars=[Llguidance()],
        cuts=cuts or [],
        options=HarnessOptions(**options),
    )


def is_valid(form: str, text: str) -> bool:
    try:
        return FORMS[form][1](text)
    except ValueError:
        return False


async def test_every_answer_that_ended_has_its_form(served: tuple[Path, BackendFactory]) -> None:
    asked = {form: submissions(form) for form in FORMS}
    async with serve(served) as harness:
        for form in FORMS:
            found = await answers(harness, asked[form])
            ended = [text_of(served[0], ids) for ids, state in found if state is RequestState.FINISHED_EOS]
            assert [text for text in ended if not is_valid(form, text)] == []
            assert {state for _, state in found} <= {RequestState.FINISHED_EOS, RequestState.FINISHED_MAX_LENGTH}
            assert len(ended) >= (1 if form == "json_object" else len(found)), "without a bound some never end"

            free = [Submission(each.ids, 40, replace(each.ask, grammar=None)) for each in asked[form]]
            texts = [text_of(served[0], ids) for ids, _ in await answers(harness, free)]
            assert not any(is_valid(form, text) for text in texts), "a control: the model itself knows no such form"


async def test_company_with_grammars_changes_no_free_row(served: tuple[Path, BackendFactory]) -> None:
    model, factory = served
    constrained = [submission for form in FORMS for submission in submissions(form)[:2]]
    async with serving(model, factory, samplers=list(SAMPLERS)) as harness:
        expected = await answers(harness, FREE)
    async with serve(served) as harness:
        alone = await answers(harness, constrained)
        mixed = await answers(harness, [*FREE, *constrained])

    assert mixed[: len(FREE)] == expected
    assert mixed[len(FREE) :] == alone
    assert len({tuple(ids) for ids, _ in mixed}) > len(FREE) + len(FORMS), "a control: rows differ"


DISTURBANCES: dict[str, tuple[list[int], dict[str, Any]]] = {
    "split": ([1], {}),
    "restarts": ([], {"stage_options": {"fail-at-step": 90, "fail-times": 2}}),
    "preemption": ([1], {"num_cache_blocks": 68}),
    "small_chunks": ([], {"chunked_prefill_size": 3, "max_num_tokens_per_batch": 16}),
    "micro_batches": ([1], {"num_micro_batches": 2}),
}


@pytest.mark.parametrize("disturbance", DISTURBANCES)
async def test_no_disturbance_changes_a_constrained_stream(toy_model: Path, disturbance: str) -> None:
    served = toy_model, ToyFactory()
    cuts, options = DISTURBANCES[disturbance]
    asked = [submission for form in ("json_schema", "json_object", "lark") for submission in submissions(form)]
    async with serve(served) as harness:
        expected = await answers(harness, asked)
        assert harness.gateway.status.num_replays == 0
    async with serve(served, cuts, **options) as harness:
        assert await answers(harness, asked) == expected
        status, num_tokens = harness.gateway.status, sum(len(ids) for ids, _ in expected)
        assert (status.num_replays > 0) == (disturbance == "restarts")
        if disturbance == "preemption":
            await eventually_async(lambda: status.counters.get("generated_tokens_total", 0) >= num_tokens)
            assert status.counters["preemptions_total"] > 0

    by_seed = [ids for ids, _ in expected[: len(SAMPLINGS)]]
    assert len({tuple(ids) for ids in by_seed}) == len(by_seed), "a control: each way of sampling says something else"


def prompter(known: list[list[int]]) -> DraftFunction:
    """A drafter that knows the answers, the end included, and says a wrong token now and then."""

    def draft(so_far: list[int], num_tokens: int) -> list[int]:
        end = len(so_far)
        rest = next((ids[end:] for ids in known if ids[:end] == so_far), [])
        return [token if (end + at) % 7 else token ^ 1 for at, token in enumerate(rest[:num_tokens])]

    return draft


async def test_drafts_change_no_constrained_stream(toy_model: Path) -> None:
    served = toy_model, ToyFactory()
    asked = [submission for form in FORMS for submission in submissions(form)]
    async with serve(served) as harness:
        expected = await answers(harness, asked)
    known = [[*submission.ids, *ids] for submission, (ids, _) in zip(asked, expected, strict=True)]
    options = {"drafter": ScriptedDrafterFactory(prompter(known)), "stage_options": {"step-s": 0.002}}
    async with serve(served, [1], **options) as harness:
        for form in range(len(FORMS)):
            some = slice(len(SAMPLINGS) * form, len(SAMPLINGS) * (form + 1))
            assert await answers(harness, asked[some]) == expected[some]
        counters, num_tokens = harness.gateway.status.counters, sum(len(ids) for ids, _ in expected)
        await eventually_async(lambda: counters.get("generated_tokens_total", 0) >= num_tokens)
        assert 0 < counters["accepted_tokens_total"] < counters["drafted_tokens_total"]


async def test_choices_of_one_prompt_follow_the_grammar_each_by_itself(toy_model: Path) -> None:
    one = submissions("json_schema")[1]
    two = Submission(one.ids, NUM_TOKENS, one.ask, num_choices=2)
    async with serve((toy_model, ToyFactory())) as harness:
        (alone,) = await answers(harness, [one])
        found = [[token async for delta in stream for token in delta.ids] for stream in harness.gateway.submit(two)]

    assert found[0] == alone[0]
    assert found[0] != found[1]
    assert all(is_valid("json_schema", text_of(toy_model, ids)) for ids in found)


async def last_delta(harness: Harness, submission: Submission) -> Delta:
    (stream,) = harness.gateway.submit(submission)
    return [delta async for delta in stream][-1]


async def test_a_grammar_that_cannot_be_followed_ends_its_request_with_an_error_alone(toy_model: Path) -> None:
    stuck = {
        "malformed": (GrammarSpec("regex", "(broken"), {}),
        "leave no token": (FORMS["choice"][0], {"allowed_token_ids": [1, 2]}),
    }
    good = submissions("regex")[1]
    async with serve((toy_model, ToyFactory())) as harness:
        expected = await harness.run(good)
        for reason, (spec, sampling) in stuck.items():
            for temperature in (0.0, 1.0):
                submission = Submission(
                    [5], 20, Ask(sampling | {"temperature": temperature}, eos_ids=[EOS_ID], grammar=spec)
                )
                async with anyio.create_task_group() as tasks:
                    deltas: list[Delta] = []
                    beside: list[Answer] = []

                    async def ask(asked: Submission = submission, deltas: list[Delta] = deltas) -> None:
                        deltas.append(await last_delta(harness, asked))

                    async def ask_beside(beside: list[Answer] = beside) -> None:
                        beside.append(await harness.run(good))

                    tasks.start_soon(ask)
                    tasks.start_soon(ask_beside)
                (delta,) = deltas
                assert (delta.ids, delta.state, delta.extras.code) == ([], RequestState.ERROR, "generation_stuck")
                assert reason in delta.extras.reason
                assert beside == [expected]
        with pytest.raises(RequestError, match="no grammar of the kind 'sonnet'"):
            await last_delta(harness, Submission([5], 20, Ask(grammar=GrammarSpec("sonnet", "x"))))
        assert harness.gateway.status.num_replays == 0
