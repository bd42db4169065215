"""Pydantic AI: an agent that calls its tool, streams, and answers in the form of a class."""

import json
from importlib.metadata import version

import pydantic
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Report(pydantic.BaseModel):
    """What the weather is."""

    city: str
    weather: str
    degrees: int


provider = OpenAIProvider(base_url="http://127.0.0.1:3001/v1", api_key="none")
model = OpenAIChatModel("demo", provider=provider)
agent = Agent(model, model_settings={"temperature": 0})
text = agent.run_sync("What is histrio?").output
assert "runtime" in text, text

stream = agent.run_stream_sync("What is histrio?")
pieces = list(stream.stream_text(delta=True, debounce_by=None))
assert "".join(pieces) == text
assert pieces  # how many they are is a matter of how fast the tokens come

cities = []
helper = Agent(model, model_settings={"temperature": 0})


@helper.tool_plain
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    cities.append(city)
    return '{"weather": "sunny", "degrees": 21}'


answer = helper.run_sync("What is the weather in Paris?").output
assert cities == ["Paris"]
assert "21 degrees" in answer, answer

snow = "The weather in Oslo is snowy at -3 degrees. Answer in JSON."
reporter = Agent(model, output_type=NativeOutput(Report), model_settings={"temperature": 0})
report = reporter.run_sync(snow).output
assert report == Report(city="Oslo", weather="snowy", degrees=-3), report

try:
    agent.run_sync("Hello", model_settings={"temperature": 99})
except ModelHTTPError as error:
    assert error.status_code == 400, error
    assert error.body["param"] == "temperature", error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["chat", "stream", "tools", "form", "errors"]
print(json.dumps({"client": f"pydantic-ai {version('pydantic-ai-slim')}", "did": did}))
