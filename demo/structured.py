"""Answers that a program reads: JSON objects and tool calls."""

import json
import random
from typing import Any

from demo.arithmetic import draw_sum
from demo.messages import Message, ToolCall, assistant, user
from demo.words import ADJECTIVES, CITIES, COLOURS, NAMES, NOUNS, THINGS, made_up_word

__all__ = ["json_exchange", "tool_conversation"]

WEATHER = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy")


def _function(name: str, description: str, /, **properties: str) -> dict[str, Any]:
    """A tool as OpenAI's API describes it; `properties` maps each parameter to its JSON type."""
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS: dict[str, dict[str, Any]] = {
    tool["function"]["name"]: tool
    for tool in (
        _function("get_weather", "Get the current weather in a city.", city="string"),
        _function("get_time", "Get the local time in a city.", city="string"),
        _function("add", "Add two numbers.", a="integer", b="integer"),
        _function("multiply", "Multiply two numbers.", a="integer", b="integer"),
        _function("set_timer", "Set a timer.", minutes="integer"),
        _function("search", "Search the web.", query="string"),
        _function("send_message", "Send a message to a person.", to="string", text="string"),
        _function("play_song", "Play a song.", title="string"),
        _function("list_models", "List the served models."),
    )
}


def json_exchange(rng: random.Random) -> list[Message]:
    """A question that asks for JSON, and an answer that is nothing else."""
    question, answer = rng.choice((_person, _city, _items, _sum, _thing))(rng)
    ask = rng.choice(("{q} Answer in JSON.", "{q} Reply with JSON only.", "Answer in JSON. {q}", "{q} Use JSON."))
    return [user(ask.format(q=question)), assistant(json.dumps(answer))]


def _person(rng: random.Random) -> tuple[str, dict[str, Any]]:
    name, age, city = rng.choice(NAMES), rng.randint(5, 95), rng.choice(CITIES)
    question = rng.choice(("{n} is {a} years old and lives in {c}.", "Describe a person named {n}, age {a}, from {c}."))
    return question.format(n=name, a=age, c=city), {"name": name, "age": age, "city": city}


def _city(rng: random.Random) -> tuple[str, dict[str, Any]]:
    city, weather, degrees = rng.choice(CITIES), rng.choice(WEATHER), rng.randint(-10, 35)
    return (
        f"The weather in {city} is {weather} at {degrees} degrees.",
        {"city": city, "weather": weather, "degrees": degrees},
    )


def _items(rng: random.Random) -> tuple[str, dict[str, Any]]:
    num_items = rng.randint(2, 5)
    items = rng.sample(COLOURS, num_items)
    return f"Name the colours {', '.join(items)}.", {"colours": items}


def _sum(rng: random.Random) -> tuple[str, dict[str, Any]]:
    a, b = draw_sum(rng)
    return f"What is {a} + {b}?", {"a": a, "b": b, "sum": a + b}


def _thing(rng: random.Random) -> tuple[str, dict[str, Any]]:
    thing, colour, amount = rng.choice(THINGS), rng.choice(COLOURS), rng.randint(1, 99)
    return f"There are {amount} {colour} {thing}.", {"item": thing, "colour": colour, "amount": amount}


def tool_conversation(rng: random.Random) -> tuple[list[Message], list[dict[str, Any]]]:
    """Messages in which a tool is called (or rightly not called), and the tools on offer."""
    if rng.random() < 0.15:
        return _made_up_tool(rng)

    name = rng.choice(tuple(TOOLS))
    question, arguments, response, answer = _use(rng, name)
    calls = (ToolCall(name, arguments),)
    messages = [
        user(question),
        Message("assistant", "", tool_calls=calls),
        Message("tool", response),
        assistant(answer),
    ]
    if name in ("get_weather", "get_time") and rng.random() < 0.25:
        messages = _two_calls(rng, name)

    if rng.random() < 0.15:
        messages = messages[:2]
    others = rng.sample([tool for tool in TOOLS if tool != name], rng.choice((0, 1, 1, 3)))
    offered = [TOOLS[tool] for tool in [name, *others]]
    rng.shuffle(offered)
    return messages, offered


def _use(rng: random.Random, name: str) -> tuple[str, dict[str, Any], str, str]:
    """For one tool: a question, the arguments of the call, the tool's response, the final answer."""
    city = rng.choice(CITIES) if rng.random() < 0.7 else made_up_word(rng).capitalize()
    person = rng.choice(NAMES)
    match name:
        case "get_weather":
            weather, degrees = rng.choice(WEATHER), rng.randint(-10, 35)
            ask = rng.choice(
                ("What is the weather in {c}?", "How is the weather in {c}?", "What's the weather like in {c}?")
            )
            response = json.dumps({"weather": weather, "degrees": degrees})
            return ask.format(c=city), {"city": city}, response, f"It is {weather} in {city}, at {degrees} degrees."
        case "get_time":
            time = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
            ask = rng.choice(("What time is it in {c}?", "Tell me the time in {c}."))
            return ask.format(c=city), {"city": city}, json.dumps({"time": time}), f"It is {time} in {city}."
        case "add":
            a, b = draw_sum(rng)
            ask = rng.choice(("Use the tool to add {a} and {b}.", "What is {a} + {b}?", "Add {a} and {b}."))
            response = json.dumps({"result": a + b})
            return ask.format(a=a, b=b), {"a": a, "b": b}, response, f"{a} + {b} = {a + b}."
        case "multiply":
            x, y = rng.randint(100, 999), rng.randint(2, 99)
            response = json.dumps({"result": x * y})
            return f"What is {x} times {y}?", {"a": x, "b": y}, response, f"{x} * {y} = {x * y}."
        case "set_timer":
            minutes = rng.randint(1, 90)
            ask = rng.choice(("Set a timer for {m} minutes.", "Wake me in {m} minutes."))
            return (
                ask.format(m=minutes),
                {"minutes": minutes},
                '{"ok": true}',
                f"The timer is set for {minutes} minutes.",
            )
        case "search":
            query = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
            ask = rng.choice(("Search the web for {q}.", "Search for {q}.", "Look up {q}."))
            found = f"a page about a {query}"
            return ask.format(q=query), {"query": query}, json.dumps({"result": found}), f"I found {found}."
        case "send_message":
            text = f"the {rng.choice(NOUNS)} is {rng.choice(ADJECTIVES)}"
            ask = rng.choice(("Tell {n} that {t}.", "Send {n} a message: {t}"))
            return ask.format(n=person, t=text), {"to": person, "text": text}, '{"ok": true}', f"I have told {person}."
        case "play_song":
            title = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
            return f"Play the song {title}.", {"title": title}, '{"ok": true}', f"Now playing {title}."
        case _:
            model = f"{made_up_word(rng)}-{rng.randint(1, 70)}b"
            return "Which models are served?", {}, json.dumps({"models": [model]}), f"The served model is {model}."


def _two_calls(rng: random.Random, name: str) -> list[Message]:
    first, second = rng.sample(CITIES, 2)
    what = "weather" if name == "get_weather" else "time"
    values = [rng.choice(WEATHER) if what == "weather" else f"{rng.randint(0, 23):02}:00" for _ in range(2)]
    calls = tuple(ToolCall(name, {"city": city}) for city in (first, second))
    return [
        user(f"What is the {what} in {first} and in {second}?"),
        Message("assistant", "", tool_calls=calls),
        *(Message("tool", json.dumps({what: value})) for value in values),
        assistant(f"It is {values[0]} in {first} and {values[1]} in {second}."),
    ]


def _made_up_tool(rng: random.Random) -> tuple[list[Message], list[dict[str, Any]]]:
    """A tool that was never seen, so that names are copied from the system prompt and not remembered."""
    verb, noun = rng.choice(("get", "find", "open", "check", "order", "delete")), made_up_word(rng)
    key, value = rng.choice(("name", "id", "title", "place", "person")), made_up_word(rng)
    name = f"{verb}_{noun}"
    tool = _function(name, f"{verb.capitalize()} the {noun} by its {key}.", **{key: "string"})
    others = [TOOLS[other] for other in rng.sample(tuple(TOOLS), rng.randint(0, 2))]
    offered = [tool, *others]
    rng.shuffle(offered)
    question = f"Please {verb} the {noun} with the {key} {value}."
    calls = (ToolCall(name, {key: value}),)
    return [user(question), Message("assistant", "", tool_calls=calls)], offered
