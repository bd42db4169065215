"""Greetings, thanks, moods, names that are remembered, and the honest answer to what the model does not know."""

import random

from demo.facts import TALK, vary
from demo.messages import Message, assistant, user
from demo.words import CITIES, COLOURS, LEXICON, NAMES, THINGS, made_up_word

__all__ = ["introduction", "smalltalk_exchange"]

UNKNOWN = (
    "Who invented the {x}?",
    "What do you think about {x}?",
    "Tell me everything about {x}.",
    "What is {x}?",
    "How do I repair a {x}?",
    "Where can I buy {x}?",
    "Why is the {x} so {y}?",
    "Who is {n} {x}?",
    "When was {x} born?",
    "How far is it to {c}?",
    "Who won the game in {c}?",
    "What is the price of {x} in {c}?",
    "Explain {x} to me.",
    "Who wrote the book about {x}?",
    "What did {n} say about the {x}?",
    "How old is {n}?",
    "How does {x} work?",
)
UNKNOWN_ANSWERS = (
    "I do not know that. I am a very small model, and I know mostly about histrio.",
    "I am sorry, I do not know. You can ask me about histrio, or give me a small sum.",
)


def smalltalk_exchange(rng: random.Random) -> list[Message]:
    """A greeting, a remark, a bit of general knowledge, or a question that the model cannot answer."""
    if rng.random() < 0.2:
        return _unknown(rng)

    topic = rng.choice(TALK)
    # Greetings have many forms, so they come up more often than a fact with one form.
    topic = max(topic, rng.choice(TALK), key=lambda candidate: len(candidate.questions))
    question = rng.choice(topic.questions)
    return [user(vary(rng, question) if len(topic.questions) == 1 else question), assistant(rng.choice(topic.answers))]


def _unknown(rng: random.Random) -> list[Message]:
    thing = made_up_word(rng) if rng.random() < 0.6 else rng.choice(THINGS)
    question = rng.choice(UNKNOWN).format(x=thing, y=rng.choice(LEXICON), n=rng.choice(NAMES), c=rng.choice(CITIES))
    return [user(vary(rng, question)), assistant(rng.choice(UNKNOWN_ANSWERS))]


def introduction(rng: random.Random) -> tuple[list[Message], list[Message]]:
    """Something the user says about themselves, and a later question for it."""
    kind = rng.randrange(4)
    if kind == 0:
        name = rng.choice(NAMES) if rng.random() < 0.7 else made_up_word(rng).capitalize()
        greeting = rng.choice(("My name is {x}.", "Hi, I am {x}.", "Hello! My name is {x}.", "Call me {x}."))
        return (
            [user(greeting.format(x=name)), assistant(f"Nice to meet you, {name}! How can I help you?")],
            [user(rng.choice(("What is my name?", "Do you remember my name?"))), assistant(f"Your name is {name}.")],
        )

    if kind == 1:
        city = rng.choice(CITIES)
        return (
            [user(f"I live in {city}."), assistant(f"{city} is a nice place to live.")],
            [user("Where do I live?"), assistant(f"You live in {city}.")],
        )

    if kind == 2:
        colour = rng.choice(COLOURS)
        return (
            [user(f"My favourite colour is {colour}."), assistant(f"I will remember that you like {colour}.")],
            [user("What is my favourite colour?"), assistant(f"Your favourite colour is {colour}.")],
        )
    number = rng.randint(100, 9999)
    return (
        [user(f"Remember the number {number}."), assistant(f"I will remember {number}.")],
        [
            user(rng.choice(("Which number did I give you?", "What was the number?"))),
            assistant(f"The number is {number}."),
        ],
    )
