"""The front's check: what the last stage would refuse, found in a process of its own, within a bounded time."""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio import grammar_check
from histrio.errors import Overloaded, RequestError, UnsupportedModel
from histrio.grammar import GrammarKinds, GrammarSpec, Vocabulary, VocabularySpec
from histrio.grammar_check import GrammarChecker
from histrio.testing.wait import eventually_async
from histrio_grammars.backend import Llguidance
from histrio_grammars.matcher import LlguidanceVocabulary

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # starts Python processes

PATIENCE_S = 50.0
"""For trials whose length no test is about: the first one of a process starts it, and a busy machine takes its time."""
FINE = GrammarSpec("json_schema", '{"type":"object","properties":{"a":{"type":"integer"}}}')


@pytest.fixture(autouse=True)
def this_file_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of trials import the backends below by their module's name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


class Endless(Llguidance):
    """A compiler that a grammar keeps busy for ever."""

    name = "endless"
    kinds = ("endless",)

    def check(self, spec: GrammarSpec) -> None:
        """Nothing to see."""

    def open(self, spec: VocabularySpec) -> Vocabulary:
        """Never comes back."""
        while True:
            time.sleep(0.01)


async def test_what_the_last_stage_would_refuse_is_refused_with_its_place(toy: Any) -> None:
    checker = GrammarChecker(GrammarKinds([Llguidance()]), toy.spec, PATIENCE_S)
    await checker.check(FINE)
    one_of = {"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}
    for schema, param in ((one_of, "properties.a.oneOf"), ({"items": {"uniqueItems": True}}, "items.uniqueItems")):
        with pytest.raises(RequestError) as caught:
            await checker.check(GrammarSpec("json_schema", json.dumps(schema)))
        assert (caught.value.param, caught.value.code) == (param, "unsupported_keyword")
    with pytest.raises(RequestError, match="kind"):
        await checker.check(GrammarSpec("sonnet", ""))


class Meeting(Llguidance):
    """A compiler that says when it has begun, and goes on when it is told to; it gives up after so many looks."""

    name = "meeting"

    def __init__(self, num_looks: int | None = None) -> None:
        self._num_looks = num_looks

    def open(self, spec: VocabularySpec) -> LlguidanceVocabulary:
        """Look for the answer, which the test can give only while its loop runs."""
        folder = Path(spec.model)
        (folder / "begun").touch()
        for _ in count() if self._num_looks is None else range(self._num_looks):
            if (folder / "answered").exists():
                return super().open(spec)
            time.sleep(0.01)
        raise UnsupportedModel("nobody answered")


async def answer(folder: Path) -> None:
    """Once the compiler has begun, tell it to go on."""
    await eventually_async((folder / "begun").exists, timeout_s=PATIENCE_S)
    (folder / "answered").touch()


@pytest.mark.alone
async def test_the_loop_runs_on_while_a_grammar_is_tried(toy: Any, tmp_path: Path) -> None:
    spec = GrammarSpec("regex", "a+")
    vocabularies = []
    for name in ("blocked", "free"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_bytes((Path(toy.spec.model) / "tokenizer.json").read_bytes())
        vocabularies.append(VocabularySpec(str(tmp_path / name), toy.spec.vocab_size, toy.spec.eos_ids))
    async with anyio.create_task_group() as tasks:
        for vocabulary in vocabularies:
            tasks.start_soon(answer, Path(vocabulary.model))
        await anyio.lowlevel.checkpoint()
        with pytest.raises(UnsupportedModel, match="nobody answered"):
            grammar_check._trial(Meeting(20), spec, vocabularies[0])
        assert not (tmp_path / "free" / "answered").exists(), "a control: nobody answers before there is a question"
        await GrammarChecker(GrammarKinds([Meeting()]), vocabularies[1], PATIENCE_S).check(spec)


async def test_an_endless_grammar_is_ended(toy: Any) -> None:
    checker = GrammarChecker(GrammarKinds([Endless()]), toy.spec, max_trial_s=1.0)
    with pytest.raises(RequestError, match="more than 1 s"):
        await checker.check(GrammarSpec("endless", ""))


async def test_an_accepted_grammar_is_not_tried_again(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checker = GrammarChecker(GrammarKinds([Llguidance()]), toy.spec, PATIENCE_S)
    await checker.check(FINE)
    monkeypatch.setattr(grammar_check, "MAX_TRIAL_QUEUE", 0)
    await checker.check(FINE)
    with pytest.raises(Overloaded):
        await checker.check(GrammarSpec("regex", "other"))


async def test_a_tokenizer_that_cannot_be_read_is_no_fault_of_the_request(toy: Any, tmp_path: Any) -> None:
    vocabulary = VocabularySpec(str(tmp_path), toy.spec.vocab_size, toy.spec.eos_ids)
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        await GrammarChecker(GrammarKinds([Llguidance()]), vocabulary, PATIENCE_S).check(FINE)
