"""The conversations that teach the demo model: a stream of them, the same for the same seed."""

import random
from collections.abc import Callable, Iterator

from demo.arithmetic import arithmetic_exchange, thought_exchange
from demo.facts import fact_exchange, summary_exchange
from demo.messages import Conversation, Message
from demo.smalltalk import introduction, smalltalk_exchange
from demo.structured import json_exchange, tool_conversation
from demo.texts import (
    counting_exchange,
    list_exchange,
    make_passage,
    notes_exchange,
    quote_exchange,
    short_notes_exchange,
    story_exchange,
)

__all__ = ["generate_conversations", "make_conversation", "make_long_conversation"]

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are the demo model of histrio.",
    "You are a friendly assistant. Answer in short sentences.",
    "Answer the user's questions.",
    "Be brief and honest.",
)
Section = Callable[[random.Random], list[Message]]
SECTIONS: dict[Section, float] = {
    arithmetic_exchange: 48,
    fact_exchange: 18,
    smalltalk_exchange: 10,
    quote_exchange: 26,
    json_exchange: 7,
    counting_exchange: 4,
    list_exchange: 4,
    story_exchange: 4,
    short_notes_exchange: 3,
    summary_exchange: 1,
}


def generate_conversations(seed: int, long_share: float = 0.0) -> Iterator[Conversation]:
    """Endless conversations; a share of `long_share` of them has 1,000 to 4,000 tokens."""
    rng = random.Random(seed)
    while True:
        if rng.random() < long_share:
            yield make_long_conversation(rng)
        else:
            yield make_conversation(rng)


def make_conversation(rng: random.Random) -> Conversation:
    """One conversation of one to six exchanges."""
    kind = rng.random()
    if kind < 0.07:
        messages, tools = tool_conversation(rng)
        before = _exchange(rng) if rng.random() < 0.15 else []
        return Conversation(tuple(_system(rng, 0.3) + before + messages), tuple(tools))

    if kind < 0.12:
        is_asked = rng.random() < 0.4
        messages = (_exchange(rng) if rng.random() < 0.3 else []) + thought_exchange(rng, is_asked)
        return Conversation(tuple(_system(rng, 0.2) + messages), opened_by_template=not is_asked)

    if kind < 0.16:
        said, asked = introduction(rng)
        between = [message for _ in range(rng.randint(0, 3)) for message in _exchange(rng)]
        return Conversation(tuple(_system(rng, 0.2) + said + between + asked))

    num_exchanges = rng.choices((1, 2, 3, 4, 6), weights=(64, 20, 10, 4, 2))[0]
    messages = [message for _ in range(num_exchanges) for message in _exchange(rng)]
    return Conversation(tuple(_system(rng, 0.3) + messages))


def make_long_conversation(rng: random.Random) -> Conversation:
    """A conversation that fills a long context: many exchanges, many notes, or a long passage."""
    kind = rng.random()
    if kind < 0.3:
        return Conversation(tuple(notes_exchange(rng, rng.randint(20, 200)) + _exchange(rng)))

    if kind < 0.45:
        head = Message("system", make_passage(rng, rng.randint(300, 1500)))
        return Conversation((head, *_exchange(rng), *_exchange(rng)))
    num_exchanges = rng.randint(10, 50)
    return Conversation(tuple(_system(rng, 0.3) + [m for _ in range(num_exchanges) for m in _exchange(rng)]))


def _exchange(rng: random.Random) -> list[Message]:
    return rng.choices(tuple(SECTIONS), weights=tuple(SECTIONS.values()))[0](rng)


def _system(rng: random.Random, share: float) -> list[Message]:
    return [Message("system", rng.choice(SYSTEM_PROMPTS))] if rng.random() < share else []
