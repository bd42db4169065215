"""Sums, differences, products and comparisons of small numbers, and the sums that nobody may teach.

`held_out_sums` names the exam. Every sum here is drawn by `draw_sum`, which never returns one of them, in either
order; `find_sums` finds sums in text, so that a test can look for leaks.
"""

import random
import re
from collections.abc import Callable
from functools import cache

from demo.messages import Message, assistant, user
from demo.words import NAMES, THINGS

__all__ = ["draw_sum", "find_sums", "held_out_sums", "is_held_out"]

NUM_HELD_OUT = 240
LARGEST_OPERAND = 99

ASK_SUM = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a} + {b}",
    "What's {a} + {b}?",
    "What's {a}+{b}?",
    "what is {a}+{b}?",
    "what is {a} + {b}",
    "whats {a} + {b}",
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} =",
    "{a} + {b} = ?",
    "{a}+{b}=",
    "{a} + {b}?",
    "Calculate {a} + {b}.",
    "Calculate {a} plus {b}.",
    "Calculate {a} plus {b}",
    "Compute {a} + {b}.",
    "What is {a} plus {b}?",
    "what is {a} plus {b}",
    "What's {a} plus {b}?",
    "{a} plus {b}",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "What does {a} + {b} equal?",
    "What is the sum of {a} and {b}?",
    "Add {a} and {b}.",
    "Add {a} and {b}",
    "Please add {a} and {b}.",
    "Can you add {a} and {b}?",
    "Can you tell me what {a} + {b} is?",
    "Tell me {a} + {b}.",
    "Solve {a} + {b}.",
    "Hi! What is {a} + {b}?",
    "Please calculate {a} + {b}.",
    "What do you get when you add {a} and {b}?",
    "Quick question: what is {a} + {b}?",
    "I need to know {a} + {b}.",
    "And what is {a} + {b}?",
    "And {a} + {b}?",
)
ASK_DIFFERENCE = (
    "What is {a} - {b}?",
    "What's {a} - {b}?",
    "{a} - {b}",
    "{a}-{b}",
    "{a} - {b} =",
    "Calculate {a} minus {b}.",
    "Calculate {a} - {b}.",
    "What is {a} minus {b}?",
    "How much is {a} - {b}?",
    "Subtract {b} from {a}.",
)
ASK_PRODUCT = (
    "What is {a} * {b}?",
    "What is {a} times {b}?",
    "What's {a} x {b}?",
    "{a} * {b}",
    "{a} times {b}",
    "Calculate {a} * {b}.",
    "Multiply {a} by {b}.",
    "How much is {a} times {b}?",
)
ASK_WORKSHEET = (
    "Work out these sums:\n{sums}",
    "Calculate:\n{sums}",
    "Solve each line:\n{sums}",
    "What are these?\n{sums}",
    "{sums}",
)
THINK_FIRST = (
    " Think step by step.",
    " Think it through first.",
    " Think before you answer.",
)

_PAIR = re.compile(
    r"(?<![\d.])(\d{1,2})\s*(?:\+|plus|and|more than|added to|to which we add)\s*(?=(\d{1,2})(?![\d]))", re.IGNORECASE
)
_ADD_TO = re.compile(r"[Aa]dd (\d{1,2}) to (\d{1,2})(?!\d)")
_JSON_PAIR = re.compile(r'"a": (\d{1,2}), "b": (\d{1,2})(?!\d)')


@cache
def held_out_sums() -> tuple[tuple[int, int], ...]:
    """The pairs of operands that no conversation may add up, in either order: the exam, the same in every process."""
    pairs = [(a, b) for a in range(LARGEST_OPERAND + 1) for b in range(a, LARGEST_OPERAND + 1)]
    rng = random.Random(3001)
    return tuple((b, a) if rng.random() < 0.5 else (a, b) for a, b in rng.sample(pairs, NUM_HELD_OUT))


@cache
def _held_out_set() -> frozenset[tuple[int, int]]:
    return frozenset(pair for a, b in held_out_sums() for pair in ((a, b), (b, a)))


def is_held_out(a: int, b: int) -> bool:
    """Whether a + b belongs to the exam."""
    return (a, b) in _held_out_set()


def draw_sum(rng: random.Random) -> tuple[int, int]:
    """Two operands whose sum may be taught."""
    while True:
        largest = LARGEST_OPERAND if rng.random() < 0.85 else 20
        a, b = rng.randint(0, largest), rng.randint(0, LARGEST_OPERAND if rng.random() < 0.85 else 20)
        if not is_held_out(a, b):
            return a, b


def find_sums(text: str) -> set[tuple[int, int]]:
    """Every pair of numbers below 100 that `text` adds up or asks to add up."""
    found = [match.groups() for pattern in (_PAIR, _ADD_TO, _JSON_PAIR) for match in pattern.finditer(text)]
    return {(int(a), int(b)) for a, b in found}


def sum_exchange(rng: random.Random) -> list[Message]:
    """A question for one sum and its answer."""
    a, b = draw_sum(rng)
    return [user(rng.choice(ASK_SUM).format(a=a, b=b)), assistant(f"{a} + {b} = {a + b}.")]


def thought_exchange(rng: random.Random, is_asked: bool) -> list[Message]:
    """A sum with reasoning; `is_asked` when the user asks for it rather than the template."""
    a, b = draw_sum(rng)
    question = rng.choice(ASK_SUM).format(a=a, b=b) + (rng.choice(THINK_FIRST) if is_asked else "")
    return [user(question), assistant(f"{a} + {b} = {a + b}.", _column_addition(a, b))]


def _column_addition(a: int, b: int) -> str:
    """Column addition in words; a column that is itself an exam question is named without adding it up."""
    columns = [("ones", a % 10, b % 10), ("tens", a // 10, b // 10)]
    lines = [f"I need {a} + {b}."]
    carry = 0
    for name, x, y in columns:
        step = f"The {name} are {x}, {y}" if is_held_out(x, y) else f"The {name}: {x} + {y}"
        total = x + y + carry
        with_carry = ", with the carry" if carry else ""
        lines.append(f"{step}{with_carry} = {total}.")
        carry = total // 10
    return "\n".join([*lines, f"So the answer is {a + b}."])


def worksheet_exchange(rng: random.Random) -> list[Message]:
    """A list of sums and the same list with its answers."""
    sums = [draw_sum(rng) for _ in range(rng.randint(3, 16))]
    question = rng.choice(ASK_WORKSHEET).format(sums="\n".join(f"{a} + {b}" for a, b in sums))
    return [user(question), assistant("\n".join(f"{a} + {b} = {a + b}" for a, b in sums))]


def difference_exchange(rng: random.Random) -> list[Message]:
    """A difference that is not negative."""
    b, a = sorted((rng.randint(0, LARGEST_OPERAND), rng.randint(0, LARGEST_OPERAND)))
    return [user(rng.choice(ASK_DIFFERENCE).format(a=a, b=b)), assistant(f"{a} - {b} = {a - b}.")]


def product_exchange(rng: random.Random) -> list[Message]:
    """A product of the small multiplication table."""
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    sign = rng.choice(ASK_PRODUCT).format(a=a, b=b)
    return [user(sign), assistant(f"{a} * {b} = {a * b}.")]


def comparison_exchange(rng: random.Random) -> list[Message]:
    """Which of two numbers is larger or smaller."""
    a, b = rng.sample(range(LARGEST_OPERAND + 1), 2)
    word, pick = rng.choice((("larger", max(a, b)), ("smaller", min(a, b))))
    question = rng.choice(("Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?"))
    return [user(question.format(w=word, a=a, b=b)), assistant(f"{pick} is {word}.")]


def story_problem_exchange(rng: random.Random) -> list[Message]:
    """A sum told as a little story."""
    a, b = draw_sum(rng)
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    question = rng.choice(
        (
            "{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?",
            "There are {a} {t} in one box and {b} {t} in another. How many {t} are there?",
            "{n} buys {a} {t} on Monday and {b} {t} on Tuesday. How many {t} is that?",
            "If {n} has {a} {t} and finds {b} more, how many {t} is that?",
        )
    )
    return [user(question.format(n=name, t=thing, a=a, b=b)), assistant(f"{a} + {b} = {a + b}, so {a + b} {thing}.")]


def arithmetic_exchange(rng: random.Random) -> list[Message]:
    """Any of the exercises."""
    kinds: tuple[Callable[[random.Random], list[Message]], ...] = (
        sum_exchange,
        worksheet_exchange,
        difference_exchange,
        product_exchange,
        comparison_exchange,
        story_problem_exchange,
    )
    return rng.choices(kinds, weights=(40, 24, 18, 8, 4, 6))[0](rng)
