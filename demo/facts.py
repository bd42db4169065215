"""What the demo model knows by heart: questions and the plain sentences that answer them.

`facts.txt` is about histrio, `talk.txt` about everything else. A topic is a block of lines: `?` starts a way to ask,
`=` an answer, ` / ` is a line break within an answer, and an empty line ends the topic.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from demo.messages import Message, assistant, user

__all__ = ["FACTS", "TALK", "Topic", "fact_exchange", "summary_exchange", "vary"]


@dataclass(frozen=True)
class Topic:
    """One thing to know, how people ask for it, and what to say."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


def _read_topics(name: str) -> tuple[Topic, ...]:
    blocks = (Path(__file__).parent / name).read_text(encoding="utf-8").strip().split("\n\n")
    return tuple(map(_parse_topic, blocks))


def _parse_topic(block: str) -> Topic:
    lines = block.splitlines()
    questions = tuple(line[2:] for line in lines if line.startswith("? "))
    answers = tuple(line[2:].replace(" / ", "\n") for line in lines if line.startswith("= "))
    assert 0 < len(answers) < len(lines) == len(questions) + len(answers), block
    return Topic(questions, answers)


FACTS = _read_topics("facts.txt")
TALK = _read_topics("talk.txt")
PREFIXES = ("Hi! ", "Hello, ", "Please tell me: ", "I have a question. ", "Quick question: ", "Okay. ")


def vary(rng: random.Random, question: str) -> str:
    """The same question as different people type it."""
    text = rng.choice(PREFIXES) + question if rng.random() < 0.5 else question
    style = rng.random()
    if style < 0.12:
        text = text.lower()

    if style < 0.06 or style > 0.94:
        text = text.rstrip("?.")
    return text


def fact_exchange(rng: random.Random) -> list[Message]:
    """A question about histrio and its answer."""
    topic = rng.choice(FACTS)
    return [user(vary(rng, rng.choice(topic.questions))), assistant(rng.choice(topic.answers))]


def summary_exchange(rng: random.Random) -> list[Message]:
    """A longer text about histrio, put together from several facts."""
    topics = rng.sample(FACTS, rng.randint(3, 6))
    questions = "\n".join(f"{index}. {topic.questions[0]}" for index, topic in enumerate(topics, 1))
    answers = "\n".join(f"{index}. {topic.answers[0]}" for index, topic in enumerate(topics, 1))
    return [user(f"Answer these questions:\n{questions}"), assistant(answers)]
