"""Structures in free text: where a trigger comes, its structure follows, and nowhere else is anything demanded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
import tokenizers

import histrio.demo
from histrio.contracts.grammar import MaskRequest, TagParameter, TagSpec, TagStructure, VocabularySpec, num_mask_words
from histrio.errors import RequestError
from histrio.front.grammar_trial import try_grammar
from histrio.messages import GrammarSpec
from histrio_grammars.backend import Llguidance
from histrio_grammars.bounds import LIMITS
from histrio_grammars.testing import RandomWriter

ADD = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
SUB = {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"], "additionalProperties": False}
CALLS = [
    TagStructure(f'<tool_call>\n{{"name": "{name}", "arguments": ', schema, "}\n</tool_call>")
    for name, schema in (("add", ADD), ("sub", SUB))
]
ADDED = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
SUBBED = '<tool_call>\n{"name": "sub", "arguments": {"b":true}}\n</tool_call>'
AUTO = TagSpec(CALLS, ["<tool_call>"])
REQUIRED = TagSpec(CALLS, [], separator="\n")


class Bpe:
    """The demo model's tokens: `<tool_call>` and the like are tokens of their own."""

    def __init__(self) -> None:
        folder = Path(histrio.demo.__file__).parent / "target"
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        (eos,) = self.ids("<|im_end|>")
        self.spec = VocabularySpec(str(folder), self.tokenizer.get_vocab_size(), (eos,))
        self.vocabulary = Llguidance().open(self.spec)

    def ids(self, text: str) -> list[int]:
        """As the tokenizer would."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


@pytest.fixture(scope="module")
def bpe() -> Bpe:
    return Bpe()


@pytest.fixture(params=["bytes", "own tokens"])
def tokens(request: pytest.FixtureRequest, toy: Any, bpe: Bpe) -> Any:
    """Where tags are spelled byte by byte, and where they are tokens."""
    return toy if request.param == "bytes" else bpe


def spec_of(tags: TagSpec) -> GrammarSpec:
    return GrammarSpec("structural_tag", msgspec.json.encode(tags).decode())


def takes(tokens: Any, tags: TagSpec, text: str) -> bool:
    ids = [*tokens.ids(text), tokens.spec.eos_ids[0]]
    return bool(tokens.vocabulary.matcher(spec_of(tags)).advance(ids))


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("", True),
        ("no calls < here <tool", True),
        (ADDED, True),
        (f"Let me see: {ADDED}\n{SUBBED} done <think>", True),
        ('<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>', False),
        (ADDED.replace("1", "true"), False),
        (ADDED.replace("</tool_call>", ""), False),
        ("a <tool_call> in the text", False),
    ],
)
def test_a_trigger_begins_a_structure_and_the_rest_is_free(tokens: Any, text: str, is_taken: bool) -> None:
    assert takes(tokens, AUTO, text) is is_taken


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"is_single": True}, {"", "so", ADDED, f"so {SUBBED}"}),
        ({"separator": "\n"}, {ADDED, f"{ADDED}\n{SUBBED}\n{ADDED}"}),
        ({"separator": "\n", "is_single": True}, {ADDED}),
        ({"separator": "\n", "is_single": True, "structures": CALLS[:1]}, {ADDED}),
        ({"separator": "; "}, {ADDED, f"{ADDED}; {SUBBED}"}),
    ],
)
def test_how_many_there_may_be_and_with_what_around(tokens: Any, changes: dict[str, Any], taken: set[str]) -> None:
    texts = {"", ADDED, f"so {SUBBED}", f"{ADDED} so", f"{ADDED}\n{SUBBED}\n{ADDED}", f"{ADDED}; {SUBBED}", "so"}
    assert {text for text in texts if takes(tokens, msgspec.structs.replace(AUTO, **changes), text)} == taken


def test_a_trigger_counts_however_it_is_spelled(bpe: Bpe) -> None:
    spelled = [token for char in "x<tool_call>" for token in bpe.ids(char)]
    for ids in (spelled, bpe.ids("x<tool_call>")):
        assert bpe.vocabulary.matcher(spec_of(AUTO)).advance([*ids, *bpe.ids('\n{"name": "add"')])
        assert not bpe.vocabulary.matcher(spec_of(AUTO)).advance([*ids, *bpe.ids(" y")])
    assert len(spelled) > len(bpe.ids("x<tool_call>")), "a control: it is another spelling"


def test_triggers_of_several_kinds_lead_to_their_own_structures(tokens: Any) -> None:
    tags = TagSpec(
        [TagStructure("<f=1>", True, "</f>"), TagStructure("<f=2>", ADD, "</f>"), TagStructure("JSON:", SUB, "")],
        ["<f=", "JSON"],
    )
    for text in ('a <f=1>"x"</f><f=2>{"a":3}</f> b JSON:{"b":true} c', "json:", 'JSON:{"b":false}'):
        assert takes(tokens, tags, text)
    for text in ("JSON", '<f=2>"x"</f>', '<f=1>"x"', "<f=3>"):
        assert not takes(tokens, tags, text)


def test_random_weights_call_only_what_there_is_as_it_is_defined(toy: Any) -> None:
    pattern = re.compile(r'<tool_call>\n\{"name": "(add|sub)", "arguments": (.*?)\}\n</tool_call>', re.DOTALL)
    num_calls = 0
    for seed in range(6):
        ids, has_ended = RandomWriter(toy.vocabulary, toy.spec.vocab_size, toy.spec.eos_ids, seed=seed).write(
            spec_of(REQUIRED), 2000
        )
        text = toy.text(ids)
        assert has_ended
        assert pattern.sub("", text).strip("\n") == ""
        for name, arguments in pattern.findall(text):
            jsonschema.validate(json.loads(arguments), ADD if name == "add" else SUB)
            num_calls += 1
    assert num_calls >= 6


def test_free_text_holds_no_token_that_hides_a_trigger(bpe: Bpe) -> None:
    masks = np.zeros((1, num_mask_words(bpe.spec.vocab_size)), np.int32)
    allowed = {}
    for trigger in ("<tool_call>", "<tool"):
        tags = TagSpec([TagStructure("<tool_call>", ADD, "")], [trigger])
        bpe.vocabulary.fill([MaskRequest(bpe.vocabulary.matcher(spec_of(tags)), 0)], masks)
        bits = np.unpackbits(masks.view(np.uint8), bitorder="little")
        allowed[trigger] = {text for text in ("<tool_call>", "<tool_response>", "<think>") if bits[bpe.ids(text)[0]]}
    assert allowed == {
        "<tool_call>": {"<tool_call>", "<tool_response>", "<think>"},
        "<tool": {"<tool_call>", "<think>"},
    }


@pytest.mark.parametrize(
    ("tags", "param"),
    [
        ({"structures": [], "triggers": ["<"]}, "structures"),
        ({"triggers": []}, "structures[0].begin"),
        ({"triggers": ["<x"]}, "structures[0].begin"),
        ({"triggers": ["<tool_call>", ""]}, "triggers[1]"),
        ({"triggers": ["<tool_call>", "call"]}, "triggers[1]"),
        ({"structures": [TagStructure("<tool_call>", {"type": "s3cret"}, "")]}, "structures[0].schema.type"),
        ({"structures": [TagStructure("<tool_call>", False, "")]}, "structures[0].schema"),
        (
            {"structures": [CALLS[0], TagStructure("<tool_call>", {"items": {"pattern": "(s3cret"}}, "")]},
            "structures[1].schema.items.pattern",
        ),
        ({"structures": CALLS[:1] * (LIMITS["structures"] + 1)}, "structures"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_place(toy: Any, tags: dict[str, Any], param: str) -> None:
    spec = spec_of(msgspec.structs.replace(AUTO, **tags))
    with pytest.raises(RequestError) as caught:
        try_grammar(toy.vocabulary, spec, toy.spec)
    assert caught.value.param == param
    assert "s3cret" not in str(caught.value)
    try_grammar(toy.vocabulary, spec_of(AUTO), toy.spec)


def test_what_is_not_enforced_is_told_with_its_place() -> None:
    unique = {"items": {"uniqueItems": True}}
    parameters = [TagParameter("<a>", "</a>", stop="</a>"), TagParameter("<b>", "</b>", schema=unique)]
    structures = [CALLS[0], TagStructure("<tool_call>", unique, ""), TagStructure("<tool_call>", {}, "", parameters)]
    instead = GrammarSpec("json_schema", '{"contains": {}}')
    spec = spec_of(TagSpec(structures, [], separator="\n", instead=instead))
    assert Llguidance().check(spec) == (
        "structures[1].schema.items.uniqueItems",
        "structures[2].parameters[1].schema.items.uniqueItems",
        "instead.contains",
    )
    assert Llguidance().check(spec_of(AUTO)) == (), "a control"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"structures": 3, "triggers": []}', "[" * 10_000])
def test_what_is_no_specification_is_refused(toy: Any, text: str) -> None:
    with pytest.raises(RequestError, match="structures"):
        Llguidance().check(GrammarSpec("structural_tag", text))
