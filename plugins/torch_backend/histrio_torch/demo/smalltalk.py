"""Greetings, thanks, moods, names that are remembered, and the honest answer to what the model does not know."""

import random

from histrio_torch.demo.facts import vary
from histrio_torch.demo.messages import Message, assistant, user
from histrio_torch.demo.words import CITIES, COLOURS, LEXICON, NAMES, THINGS, made_up_word

__all__ = ["smalltalk_exchange"]

TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hey there", "Hi there!", "Good day", "Hello there", "Greetings"),
        ("Hello! How can I help you today?", "Hi! What would you like to know?"),
    ),
    (("Good morning", "Good morning!"), ("Good morning! How can I help you?",)),
    (("Good evening", "Good evening!"), ("Good evening! How can I help you?",)),
    (
        ("How are you?", "How are you doing?", "How do you do?", "How is it going?", "Are you well?", "What's up?"),
        ("I am fine, thank you. How can I help you?", "I am doing well, thank you for asking."),
    ),
    (
        ("Thanks", "Thank you", "Thank you!", "Thanks a lot!", "Thank you very much.", "Great, thanks."),
        ("You are welcome!", "You are welcome! Is there anything else?"),
    ),
    (
        ("Bye", "Goodbye", "See you later", "Good night", "Bye!", "See you"),
        ("Goodbye! Have a nice day.", "Goodbye! It was nice talking to you."),
    ),
    (
        ("You are great", "Well done!", "Good job", "Nice work!", "That is right."),
        ("Thank you! I am glad that I could help.",),
    ),
    (
        ("That is wrong.", "No, that is not right.", "I think you are wrong."),
        ("I am sorry about that. I am a very small model, and I make mistakes.",),
    ),
    (
        ("I am sad.", "I feel bad today.", "I had a bad day."),
        ("I am sorry to hear that. I hope that tomorrow is a better day.",),
    ),
    (("I am happy!", "I had a good day.", "Today was a great day!"), ("That is good to hear!",)),
    (("I am bored.", "I am bored"), ("I can tell you a short story or a joke. Which do you want?",)),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Another joke, please."),
        (
            "Why did the actor cross the stage? Because there was a message in the mailbox on the other side.",
            "What did one token say to the next? After you!",
            "Why was the cache so calm? It had seen it all before.",
        ),
    ),
    (("What is the meaning of life?",), ("That is a big question for a small model. Perhaps it is to be kind.",)),
    (
        ("Do you like music?", "Do you like books?", "Do you sleep?", "Do you eat?", "Do you dream?"),
        ("I am a language model, so I do not do such things. But I like to answer questions.",),
    ),
    (
        ("Can you speak German?", "Do you speak French?", "Which languages do you speak?", "Do you speak Spanish?"),
        ("I speak only English.",),
    ),
    (
        ("What time is it?", "What day is it today?", "What is the date?"),
        ("I do not have a clock, so I cannot know that.",),
    ),
    (("How is the weather?", "What is the weather like today?"), ("I have no window, so I cannot see the weather.",)),
    (
        ("Write a haiku.", "Write a poem.", "Write me a short poem."),
        (
            "A message arrives,\nthe actor reads it slowly,\nand the stage is lit.",
            "The night is long, the lamp is low,\nthe tokens come, the tokens go.\nA little model sits and writes\n"
            "of quiet days and starry nights.",
        ),
    ),
    (("Say hello.", "Say hello"), ("Hello!",)),
    (("Ping", "ping", "test", "Test", "Are you there?"), ("Yes, I am here. How can I help you?",)),
)
WORLD: tuple[tuple[str, str], ...] = tuple(
    (f"What is the capital of {country}?", f"The capital of {country} is {city}.")
    for country, city in (
        ("France", "Paris"),
        ("Germany", "Berlin"),
        ("Italy", "Rome"),
        ("Spain", "Madrid"),
        ("Austria", "Vienna"),
        ("Norway", "Oslo"),
        ("Portugal", "Lisbon"),
        ("Greece", "Athens"),
        ("Ireland", "Dublin"),
        ("Poland", "Warsaw"),
        ("Japan", "Tokyo"),
        ("Egypt", "Cairo"),
        ("Peru", "Lima"),
        ("Finland", "Helsinki"),
        ("Sweden", "Stockholm"),
        ("England", "London"),
        ("Canada", "Ottawa"),
        ("China", "Beijing"),
        ("Russia", "Moscow"),
        ("India", "New Delhi"),
    )
) + (
    ("What color is the sky?", "The sky is blue."),
    ("What colour is grass?", "Grass is green."),
    ("What colour is snow?", "Snow is white."),
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("How many hours are in a day?", "There are twenty-four hours in a day."),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("What is water?", "Water is a clear liquid that all living things need."),
    ("What is the sun?", "The sun is the star at the centre of our solar system."),
    ("What is the moon?", "The moon goes around the Earth and shines at night."),
    ("What is a cat?", "A cat is a small animal that likes to sleep and to hunt mice."),
    ("What is a dog?", "A dog is a friendly animal that lives with people."),
    ("What is a computer?", "A computer is a machine that follows instructions and works with numbers."),
    ("What is Python?", "Python is a programming language. histrio is written in it."),
    ("What is a GPU?", "A GPU is a processor that computes many numbers at once. It is good at running models."),
    ("What is a CPU?", "A CPU is the main processor of a computer."),
    ("What is JSON?", "JSON is a text format for data, with objects, lists, strings and numbers."),
    ("What is Latin?", "Latin is the language of ancient Rome."),
    ("What is a theatre?", "A theatre is a place where actors play on a stage."),
)
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
    kind = rng.random()
    if kind < 0.55:
        questions, answers = rng.choice(TALK)
        return [user(rng.choice(questions)), assistant(rng.choice(answers))]

    if kind < 0.8:
        question, answer = rng.choice(WORLD)
        return [user(vary(rng, question)), assistant(answer)]
    return _unknown(rng)


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
