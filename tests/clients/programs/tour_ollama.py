"""Ollama's own client: chats, streams, tools, forms, vectors, what is served, and errors."""

import json
from importlib.metadata import version

import ollama


def get_weather(city: str) -> str:
    """Get the current weather in a city.

    Args:
        city: The city.
    """
    return '{"weather": "sunny", "degrees": 21}'


client = ollama.Client(host="http://127.0.0.1:3001")
assert [each.model.removesuffix(":latest") for each in client.list().models] == ["demo"]
assert "completion" in client.show("demo").capabilities
assert client.ps().models

exact = {"temperature": 0}
question = [{"role": "user", "content": "What is histrio?"}]
answer = client.chat("demo", question, options=exact)
text = answer.message.content
assert "runtime" in text, text
assert answer.done_reason == "stop"

pieces = list(client.chat("demo", question, options=exact, stream=True))
assert "".join(piece.message.content or "" for piece in pieces) == text
assert pieces  # how many they are is a matter of how fast the tokens come

history = [{"role": "user", "content": "What is the weather in Paris?"}]
asked = client.chat("demo", history, tools=[get_weather], options=exact).message
(call,) = asked.tool_calls
assert call.function.arguments == {"city": "Paris"}, call
result = {"role": "tool", "tool_name": "get_weather", "content": get_weather("Paris")}
last = client.chat("demo", [*history, asked, result], tools=[get_weather], options=exact)
assert "21 degrees" in last.message.content, last

schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
snow = [{"role": "user", "content": "The weather in Oslo is snowy at -3 degrees. Answer in JSON."}]
report = client.chat("demo", snow, format=schema, options=exact)
assert json.loads(report.message.content)["city"] == "Oslo", report

continued = client.generate("demo", "What is histrio?", options=exact)
assert continued.response == text, continued

vectors = client.embed("demo", ["one", "two"]).embeddings
assert len(vectors) == 2
assert vectors[0] != vectors[1]

try:
    client.chat("demo", question, options={"temperature": 99})
except ollama.ResponseError as error:
    assert error.status_code == 400, error
    assert "temperature" in error.error, error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["models", "chat", "stream", "tools", "form", "completion", "embeddings", "errors"]
print(json.dumps({"client": f"ollama {version('ollama')}", "did": did}))
