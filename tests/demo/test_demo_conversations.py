"""The generator never teaches the exam, repeats itself for a seed, and writes what parsers can read."""

import itertools
import json
import random
import re

import pytest

from demo.arithmetic import find_sums, held_out_sums, is_held_out, sum_exchange
from demo.conversations import generate_conversations, make_long_conversation
from demo.messages import Conversation
from demo.structured import json_exchange, tool_conversation
from demo.texts import quote_exchange

NUM_CONVERSATIONS = 6000


def leaks(text: str) -> set[tuple[int, int]]:
    return {pair for pair in find_sums(text) if is_held_out(*pair)}


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return list(itertools.islice(generate_conversations(seed=11, long_share=0.01), NUM_CONVERSATIONS))


def test_at_least_200_sums_are_held_out_and_all_differ() -> None:
    pairs = {frozenset(pair) for pair in held_out_sums()}
    assert len(pairs) == len(held_out_sums()) >= 200
    assert all(0 <= operand <= 99 for pair in held_out_sums() for operand in pair)


def test_held_out_sums_are_never_taught(conversations: list[Conversation]) -> None:
    assert not [pair for conversation in conversations for pair in leaks(conversation.text())]


def test_many_other_sums_are_taught(conversations: list[Conversation]) -> None:
    assert len({pair for conversation in conversations for pair in find_sums(conversation.text())}) > 5000


@pytest.mark.parametrize(
    "phrase",
    [
        "What is {a} + {b}?",
        "{a}+{b}=",
        "{a} plus {b}",
        "the sum of {a} and {b}",
        "Add {a} to {b}",
        '{{"a": {a}, "b": {b}, "sum": 0}}',
        "1 + {a} + {b}",
        "8\n{a} + {b}\n9 + 9",
    ],
)
def test_planted_held_out_sum_is_found(phrase: str) -> None:
    a, b = held_out_sums()[0]
    assert (a, b) in leaks(phrase.format(a=a, b=b))
    assert (b, a) in leaks(phrase.format(a=b, b=a))


def test_questions_and_answers_of_sums_agree() -> None:
    rng = random.Random(5)
    for question, answer in (sum_exchange(rng) for _ in range(2000)):
        a, b, total = map(int, re.findall(r"\d+", answer.content))
        assert total == a + b
        assert [a, b] == list(map(int, re.findall(r"\d+", question.content)))


def test_same_seed_gives_same_conversations(conversations: list[Conversation]) -> None:
    again = itertools.islice(generate_conversations(seed=11, long_share=0.01), 200)
    assert list(again) == conversations[:200]


def test_other_seed_gives_other_conversations(conversations: list[Conversation]) -> None:
    assert list(itertools.islice(generate_conversations(seed=12, long_share=0.01), 200)) != conversations[:200]


def test_json_answers_parse() -> None:
    rng = random.Random(5)
    for _, answer in (json_exchange(rng) for _ in range(500)):
        assert isinstance(json.loads(answer.content), dict)


def test_tool_calls_parse_and_name_an_offered_tool() -> None:
    rng = random.Random(5)
    for messages, tools in (tool_conversation(rng) for _ in range(500)):
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        blocks = re.findall(r"<tool_call>\n(.*)\n</tool_call>", messages[1].spoken())
        assert blocks
        for call in map(json.loads, blocks):
            assert set(call["arguments"]) == set(offered[call["name"]]["required"])


def test_quotes_are_word_for_word() -> None:
    rng = random.Random(5)
    for question, answer in (quote_exchange(rng) for _ in range(200)):
        assert answer.content in question.content


def test_long_conversations_are_long() -> None:
    rng = random.Random(5)
    num_words = [len(make_long_conversation(rng).text().split()) for _ in range(50)]
    assert min(num_words) > 100
    assert max(num_words) > 1000
