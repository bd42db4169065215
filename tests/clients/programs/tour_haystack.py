"""Haystack: a chat generator with streams, tools and forms, and an embedder of texts."""

import json
from importlib.metadata import version

import openai
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

key = Secret.from_token("none")
server = {"model": "demo", "api_base_url": "http://127.0.0.1:3001/v1", "api_key": key}
generator = OpenAIChatGenerator(**server)
exact = {"temperature": 0}
question = [ChatMessage.from_user("What is histrio?")]
text = generator.run(question, generation_kwargs=exact)["replies"][0].text
assert "runtime" in text, text

pieces = []
streamed = generator.run(question, streaming_callback=pieces.append, generation_kwargs=exact)["replies"][0]
assert streamed.text == text
assert "".join(piece.content for piece in pieces) == text
assert pieces  # how many they are is a matter of how fast the tokens come

weather = Tool("get_weather", "Get the current weather in a city.", CITY, lambda city: "sunny")
history = [ChatMessage.from_user("What is the weather in Paris?")]
asked = generator.run(history, tools=[weather], generation_kwargs=exact)["replies"][0]
(call,) = asked.tool_calls
assert call.arguments == {"city": "Paris"}, call
result = ChatMessage.from_tool('{"weather": "sunny", "degrees": 21}', origin=call)
last = generator.run([*history, asked, result], tools=[weather], generation_kwargs=exact)["replies"][0]
assert "21 degrees" in last.text, last

form = {"type": "json_schema", "json_schema": {"name": "report", "schema": CITY}}
snow = [ChatMessage.from_user("The weather in Oslo is snowy at -3 degrees. Answer in JSON.")]
report = generator.run(snow, generation_kwargs=exact | {"response_format": form})["replies"][0]
assert json.loads(report.text)["city"] == "Oslo", report

embedder = OpenAITextEmbedder(**server)
assert embedder.run("one")["embedding"] != embedder.run("two")["embedding"]

try:
    generator.run(question, generation_kwargs={"temperature": 99})
except openai.BadRequestError as error:
    assert error.param == "temperature", error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["chat", "stream", "tools", "form", "embeddings", "errors"]
print(json.dumps({"client": f"haystack-ai {version('haystack-ai')}", "did": did}))
