"""Longer texts: counting, lists, short stories, and passages that are quoted word for word."""

import random
import re

from demo.facts import FACTS
from demo.messages import Message, assistant, user
from demo.words import ADJECTIVES, CITIES, COLOURS, LEXICON, NAMES, NOUNS, THINGS, VERBS, made_up_word

__all__ = [
    "counting_exchange",
    "list_exchange",
    "make_passage",
    "notes_exchange",
    "quote_exchange",
    "short_notes_exchange",
    "story_exchange",
]

LISTS: dict[str, tuple[str, ...]] = {
    "colours": COLOURS,
    "cities": CITIES,
    "names": NAMES,
    "animals": tuple("dog cat horse bird fish fox wolf bear mouse rabbit owl cow sheep goat duck".split()),
    "fruits": tuple("apple pear orange cherry plum banana grape lemon peach melon fig kiwi".split()),
    "days of the week": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "months": tuple("January February March April May June July August September October November December".split()),
    "planets": tuple("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()),
    "actors of histrio": ("admission", "batching", "kv", "stages", "metrics"),
    "backends": ("torch", "MLX", "SGLang", "CPU"),
}
ORDERED = ("days of the week", "months", "planets", "actors of histrio", "backends")
ASK_QUOTE = (
    "Repeat the following passage word for word:\n\n{p}",
    "Repeat this passage word for word:\n\n{p}",
    "Quote this passage word for word:\n\n{p}",
    "Quote the following passage word for word:\n\n{p}",
    "Copy this text exactly:\n\n{p}",
    "Repeat this text exactly:\n\n{p}",
    "Please repeat the following text:\n\n{p}",
    "Repeat after me: {p}",
    'Quote the passage: "{p}"',
    "Here is a passage.\n\n{p}\n\nQuote it word for word.",
    "{p}\n\nRepeat the text above word for word.",
    "Read this passage:\n\n{p}\n\nNow repeat it word for word.",
)
FACT_WORDS = {word for topic in FACTS for text in topic.questions + topic.answers for word in text.split()}
KNOWN_WORDS = (*LEXICON, *sorted(word for word in FACT_WORDS if not re.search(r"\d", word)))
NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


def counting_exchange(rng: random.Random) -> list[Message]:
    """Counting up, down or in steps."""
    kind = rng.random()
    if kind < 0.5:
        first = 1 if rng.random() < 0.6 else rng.randint(0, 60)
        last = first + rng.randint(3, 40)
        ask = "Count to {b}." if first == 1 and rng.random() < 0.6 else "Count from {a} to {b}."
        return [user(ask.format(a=first, b=last)), assistant(_joined(range(first, last + 1)))]

    if kind < 0.7:
        first = rng.randint(5, 40)
        last = max(0, first - rng.randint(4, 20))
        return [user(f"Count down from {first} to {last}."), assistant(_joined(range(first, last - 1, -1)))]
    step, num_numbers = rng.choice((2, 3, 5, 10)), rng.randint(4, 12)
    question = f"Count in steps of {step} up to {step * num_numbers}."
    return [user(question), assistant(_joined(range(step, step * num_numbers + 1, step)))]


def _joined(numbers: range) -> str:
    return ", ".join(map(str, numbers)) + "."


def list_exchange(rng: random.Random) -> list[Message]:
    """A list of things of one kind."""
    topic = rng.choice(tuple(LISTS))
    members = LISTS[topic]
    if topic in ORDERED and rng.random() < 0.6:
        ask = rng.choice(("List the {t}.", "Name the {t}.", "What are the {t}?"))
        return [user(ask.format(t=topic)), assistant(_bullets(rng, members))]
    num_items = rng.randint(2, min(8, len(members)))
    amount = rng.choice((str(num_items), NUMBER_WORDS[num_items - 1]))
    ask = rng.choice(("List {k} {t}.", "Name {k} {t}.", "Give me {k} {t}.", "Write a list of {k} {t}."))
    chosen = members[:num_items] if topic in ORDERED else rng.sample(members, num_items)
    return [user(ask.format(k=amount, t=topic)), assistant(_bullets(rng, chosen))]


def _bullets(rng: random.Random, items: tuple[str, ...] | list[str]) -> str:
    if rng.random() < 0.7:
        return "\n".join(f"{index}. {item}" for index, item in enumerate(items, 1))
    return "\n".join(f"- {item}" for item in items)


def story_exchange(rng: random.Random) -> list[Message]:
    """A short story about somebody or something that the user may name."""
    hero, place = rng.choice(NAMES), rng.choice(("forest", "village", "harbour", "city", "garden", "theatre", "castle"))
    creature = rng.choice(("fox", "owl", "dog", "cat", "bird", "bear", "mouse", "rabbit", "horse"))
    ask = rng.choice(
        (
            "Tell me a story.",
            "Tell me a short story.",
            "Write a short story.",
            "Tell me a story about {h}.",
            "Write a story about {h} and a {c}.",
            "Tell me a story about a {c}.",
            "Write a short story about a {c} in a {p}.",
            "Write a long story about {h}.",
        )
    )
    question = ask.format(h=hero, c=creature, p=place)
    return [user(question), assistant(_story(rng, (hero, creature, place), is_long="long" in ask))]


def _story(rng: random.Random, cast: tuple[str, str, str], is_long: bool) -> str:
    hero, creature, place = cast
    thing = rng.choice(("key", "letter", "lamp", "map", "ring", "book", "coin", "bell"))
    colour, mood = rng.choice(COLOURS), rng.choice(("kind", "brave", "clever", "curious", "quiet", "patient"))
    opening = rng.choice(
        (
            f"Once upon a time, a {mood} child named {hero} lived in a small house near the {place}.",
            f"There was once a {mood} girl called {hero} who lived near the {place}.",
            f"Long ago, {hero} lived beside the {place} and was known as a {mood} friend.",
        )
    )
    middle = [
        f"One morning {hero} found a {colour} {thing} under an old tree.",
        f"It belonged to a {creature} who had lost it in the rain.",
        f'"Please help me," said the {creature}. "Without the {thing} I cannot go home."',
        f"{hero} thought for a while and then smiled.",
        f"Together they walked through the {place} until the evening came.",
        "The wind was cold, but they sang a song and were not afraid.",
        "At last they saw a light in a window far away.",
        f"The {creature} opened the door with the {thing} and laughed.",
    ]
    extra = [
        "On the way they met an old sailor who told them about the sea.",
        f"They crossed a bridge, and {hero} counted the stars above the water.",
        "A storm came up, and they waited in a barn and shared some bread.",
        f"The {creature} told a story about a king who was always late.",
        "In the night the moon was bright, and the road was easy to see.",
    ]
    if is_long:
        middle[5:5] = extra

    ending = rng.choice(
        (
            f"From that day on, {hero} and the {creature} were the best of friends.",
            f"{hero} went home happy and told everyone about the {creature}.",
            f"And every year they met again beside the {place}.",
        )
    )
    return " ".join([opening, *middle, ending])


def quote_exchange(rng: random.Random) -> list[Message]:
    """A passage and its exact copy; half of them are short, because copying is learnt on short ones first."""
    longest = rng.choices((12, 40, 110), weights=(50, 35, 15))[0]
    passage = make_passage(rng, rng.randint(2, longest))
    return [user(rng.choice(ASK_QUOTE).format(p=passage)), assistant(passage)]


def make_passage(rng: random.Random, num_words: int) -> str:
    """A passage whose words stand together for the first time."""
    style = rng.random()
    if style < 0.3:
        return " ".join(_any_word(rng) for _ in range(num_words))

    if style < 0.45:
        return " ".join(made_up_word(rng) if rng.random() < 0.5 else rng.choice(LEXICON) for _ in range(num_words))

    sentences: list[str] = []
    num_written = 0
    while num_written < num_words:
        sentences.append(_sentence(rng))
        num_written += sentences[-1].count(" ") + 1
    return " ".join(sentences)


def _any_word(rng: random.Random) -> str:
    word = rng.choice(KNOWN_WORDS)
    case = rng.random()
    if case < 0.1:
        return word.capitalize()
    return word.lower() if case < 0.3 else word


def _sentence(rng: random.Random) -> str:
    a, b, c = (rng.choice(NOUNS) for _ in range(3))
    x, y, z = (rng.choice(ADJECTIVES) for _ in range(3))
    verb, second = rng.choice(VERBS), rng.choice(VERBS)
    if rng.random() < 0.15:
        return rng.choice(FACTS).answers[0]
    pattern = rng.choice(
        (
            f"The {x} {a} {verb} near the {y} {b}.",
            f"{rng.choice(NAMES)} {verb} with {rng.randint(100, 999)} {rng.choice(THINGS)} in {rng.choice(CITIES)}.",
            f"When the {a} {verb}, the {x} {b} {second} under the {c}.",
            f"A {x} {a} and a {y} {b} never meet in the {z} {c}.",
            f"In {rng.choice(CITIES)} every {a} is {x}, but no {b} is {y}.",
            f"{rng.choice(NAMES)} said: the {rng.choice(COLOURS)} {a} {verb} after the {b}.",
            f"My {made_up_word(rng)} {verb} because the {a} is {x} and {made_up_word(rng)}.",
            f"Nobody {verb} when {made_up_word(rng).capitalize()} {second} the {b}.",
        )
    )
    return pattern


def notes_exchange(rng: random.Random, num_notes: int) -> list[Message]:
    """Many numbered notes and a question for one of them: what a long context is for."""
    names = [f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(num_notes)]
    names = list(dict.fromkeys(names))
    codes = [rng.randint(1000, 9999) for _ in names]
    notes = "\n".join(f"The code of the {name} is {code}." for name, code in zip(names, codes, strict=True))
    pick = rng.randrange(len(names))
    question = f"{notes}\n\nWhat is the code of the {names[pick]}?"
    return [user(question), assistant(f"The code of the {names[pick]} is {codes[pick]}.")]


def short_notes_exchange(rng: random.Random) -> list[Message]:
    """A few notes and a question for one of them."""
    return notes_exchange(rng, rng.randint(2, 15))
