"""One word for one thing, plain sentences, narrow pages: what `BANNED` has stands nowhere in the sources and pages.

`ALLOWED` has what is still to be rewritten, and only ever gets shorter. `NAMES` holds the words of `docs/words.md`,
which have one meaning each: no name has them in another one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("runtime", "api", "plugins", "docs", "tests", "bench")
"""Without demo/, which is mostly the text that the demo model was trained on."""
GENERATED = ("modules.md", "reference.md", "conformance-table.md", "mlx-families.md")
"""Pages that say what the sources say."""
MOST_COLUMNS = 100

BANNED = {
    r"whoever": "name the subject: the sequence, the block, the request, the client …",
    r"nobody|somebody|anybody|everybody": "name the subject: no request, a client, every sequence …",
    r"who|those who": "name the subject: which actor, the sequence that …",
    r"in vain": "say what happens: it is rejected, its result is thrown away",
    r"gives? way|giving way|gave way": "preempt",
    r"thoughts?": "reasoning",
    r"chances": "draft probabilities",
    r"drawers?": "sampler, or the last stage",
    r"(?:run|runs|running|plan|plans|planned) ahead": "async scheduling",
}
"""What is banned, and what to write in its place."""

ALLOWED: dict[str, int] = {
    "api/histrio_api/testing.py": 1,
    "bench/bench_front.py": 1,
    "tests/api/test_prompt_logprobs.py": 1,
    "tests/demo/test_demo_model.py": 1,
    "tests/speculative/test_suffix.py": 1,
    "api/histrio_api/text/reasoning_formats.py": 1,  # the mark of a model
}
"""File → how many banned words it still has: texts that models read have one each."""


class Rule(NamedTuple):
    """Names that mislead, and where the same names say what the word means."""

    names: str
    instead: str
    right_in: tuple[str, ...] = ()


NAMES = (
    Rule(
        r"_*orders?|\w+_orders",
        "command, permutation or position",
        ("api/", "tests/api/", "runtime/histrio/plugins/checks.py"),
    ),
    Rule(r"(\w+_)?wanted(_\w+)?|_?Wanted\w*", "requested, expected or sampled", ("api/", "tests/api/")),
    Rule(r"\w*[gG]uess\w*", "draft"),
    Rule(
        r"(\w+_)?places?|_?Places?",
        "position, slot, index, occurrence or reservation",
        ("plugins/grammars/", "runtime/histrio/policies/", "tests/policies/", "api/", "tests/api/"),
    ),
    Rule(
        r"max_rows|(\w+_)?first_row",
        "max_slots, first_slot",
        (
            "api/",
            "runtime/histrio/batching/scheduler.py",
            "runtime/histrio/contracts/grammar.py",
            "docs/examples/digits_grammar.py",
        ),
    ),
)
"""In policies a place is one in the queue, as in the setting `places-per-priority`. The rows of the grammar contract
are rows of logits."""


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every name that a module gives, but for constants of classes: a sampler has an `order`."""
    constants: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.AnnAssign) and "ClassVar" in ast.dump(node.annotation):
            constants.add(id(node.target))
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            if id(node) not in constants:
                yield node.id if isinstance(node, ast.Name) else node.attr


def find_misnamed(source: str, path: str) -> list[str]:
    """Every name of a module, its own included, that has one of the words in another meaning."""
    rules = [rule for rule in NAMES if not path.startswith(rule.right_in)]
    code = re.sub(r'"""[\s\S]*?"""|#.*', "", source)
    if not re.search("|".join(rf"\b(?:{rule.names})\b" for rule in rules), f"{path} {code}", re.IGNORECASE):
        return []  # as most modules have none of the words, and parsing takes long

    names = {Path(path).stem, *names_in(ast.parse(source))}
    return [
        f"{name}: {rule.instead}"
        for rule in rules
        for name in sorted(names)
        if re.fullmatch(rule.names, name, re.IGNORECASE if name.isupper() else 0) and not name.startswith("test_")
    ]


def find_banned(text: str) -> list[str]:
    """Every banned word of a text with the line it stands in, in prose, names and messages alike."""
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}; {remedy}"
        for words, remedy in BANNED.items()
        for match in re.finditer(rf"(?<![A-Za-z])(?i:{words})(?![a-z]|(?<=[A-Z])[A-Z])".replace(" ", r"[\s#_]+"), text)
    ]


def find_wide(page: str) -> list[int]:
    """The numbers of a page's lines that are too wide; tables, code and lines without a place to break may be."""
    wide = []
    in_code = False
    for number, line in enumerate(page.splitlines(), 1):
        in_code ^= line.lstrip().startswith("```")
        is_free = in_code or line.startswith(("|", "    ")) or " " not in re.sub(r"`[^`]*`", "", line.strip("- "))
        if len(line) > MOST_COLUMNS and not is_free:
            wide.append(number)
    return wide


def pages() -> Iterator[Path]:
    """README and everything in docs/ and bench/ that is a page."""
    yield ROOT / "README.md"
    for folder in ("docs", "bench"):
        yield from sorted((ROOT / folder).glob("*.md"))


def texts() -> Iterator[Path]:
    """The pages that are written by hand, and every module."""
    yield from (page for page in pages() if page.name not in GENERATED)
    for folder in SOURCES:
        yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if path != Path(__file__))


def test_banned_words_stand_nowhere_but_where_they_stood() -> None:
    found = {path.relative_to(ROOT).as_posix(): find_banned(path.read_text(encoding="utf-8")) for path in texts()}
    assert len(found) >= 300
    more = {path: words for path, words in found.items() if len(words) > ALLOWED.get(path, 0)}
    assert more == {}, "rewrite these sentences"
    fewer = {path: len(found.get(path, [])) for path, most in ALLOWED.items() if len(found.get(path, [])) < most}
    assert fewer == {}, "write these lower numbers into ALLOWED, which only gets shorter"


def test_names_have_each_word_in_its_one_meaning() -> None:
    modules = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(modules) >= 700
    paths = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in modules}
    assert {path: found for path, text in paths.items() if (found := find_misnamed(text, path))} == {}


def test_pages_are_narrow() -> None:
    wide = {path.name: lines for path in pages() if (lines := find_wide(path.read_text(encoding="utf-8")))}
    assert wide == {}, f"wrap at {MOST_COLUMNS} columns"


@pytest.mark.parametrize(
    "sentence",
    [
        "Whoever waits for kv's answer takes nobody's place.",
        "Blocks go back to\n    # those\n    # who need them.",
        "class DrawerChain: ...",
        "has_thoughts = True",
        "A sequence in flight cannot give\nway.",
        "Nobody runs ahead of those who cannot.",
        "def _run_ahead(): ...",
    ],
)
def test_a_planted_sentence_is_found(sentence: str) -> None:
    assert find_banned(sentence)


def test_plain_sentences_and_longer_words_are_left_alone() -> None:
    plain = "The whole sequence is preempted. withdraw() thoughtful whole_answer JOIN_WHOLE anyway, running: ahead"
    assert find_banned(plain) == []


def test_a_planted_wide_line_is_found() -> None:
    wide = "word " * 30
    assert find_wide(f"{wide}\n| {wide} |\n```\n{wide}\n```\n- `{wide}`\n{wide}") == [1, 7]


@pytest.mark.parametrize(
    "source",
    [
        "def submit(order): ...",
        "self._orders = []",
        "for wanted in sizes: ...",
        "class GuessDrafter: ...",
        "place = ids.index(token)",
        "PLACES = [1, 2]",
        "@dataclass\nclass Capacity:\n    max_rows: int",
        "if (num_wanted := 3): ...",
    ],
)
def test_a_planted_name_is_found(source: str) -> None:
    assert find_misnamed(source, "tests/kv/test_kv.py")


def test_a_planted_module_name_is_found() -> None:
    assert find_misnamed("", "runtime/histrio/plan/place.py")


def test_names_in_the_right_meaning_are_left_alone() -> None:
    assert (
        find_misnamed("class Sampler:\n    order: ClassVar[int]\n    is_in_order = replaced = True", "plugins/x.py")
        == []
    )
    assert find_misnamed("def check(place): ...", "plugins/grammars/histrio_grammars/values.py") == []
    assert find_misnamed("def test_they_run_in_order(): ...", "tests/x.py") == []
