"""smolagents: a model that streams and calls tools, and the agent that runs them."""

import json
from importlib.metadata import version

import openai
from smolagents import OpenAIModel, tool


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city.

    Args:
        city: The city.
    """
    return '{"weather": "sunny", "degrees": 21}'


server = {"api_base": "http://127.0.0.1:3001/v1", "api_key": "none"}
model = OpenAIModel("demo", **server, temperature=0)
question = [{"role": "user", "content": [{"type": "text", "text": "What is histrio?"}]}]
text = model.generate(question).content
assert "runtime" in text, text

pieces = list(model.generate_stream(question))
assert "".join(piece.content or "" for piece in pieces) == text
assert pieces  # how many they are is a matter of how fast the tokens come

history = [{"role": "user", "content": [{"type": "text", "text": "What is the weather in Paris?"}]}]
asked = model.generate(history, tools_to_call_from=[get_weather])
(call,) = asked.tool_calls
arguments = call.function.arguments
assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"city": "Paris"}

schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
form = {"type": "json_schema", "json_schema": {"name": "report", "schema": schema}}
snow = "The weather in Oslo is snowy at -3 degrees. Answer in JSON."
report = model.generate([{"role": "user", "content": [{"type": "text", "text": snow}]}], response_format=form)
assert json.loads(report.content)["city"] == "Oslo"

try:
    OpenAIModel("demo", **server, temperature=99).generate(question)
except openai.BadRequestError as error:
    assert error.param == "temperature", error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["chat", "stream", "tools", "form", "errors"]
print(json.dumps({"client": f"smolagents {version('smolagents')}", "did": did}))
