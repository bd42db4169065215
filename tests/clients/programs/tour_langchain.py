"""LangChain: a chat model with its streams, tools, forms and batches, and vectors."""

import json
from importlib.metadata import version

import openai
import pydantic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return '{"weather": "sunny", "degrees": 21}'


class Report(pydantic.BaseModel):
    """What the weather is."""

    city: str
    weather: str
    degrees: int


server = {"model": "demo", "base_url": "http://127.0.0.1:3001/v1", "api_key": "none"}
chat = ChatOpenAI(**server, temperature=0, max_tokens=200)
answer = chat.invoke("What is histrio?")
assert "runtime" in answer.content, answer
assert answer.usage_metadata["output_tokens"] > 10
assert [each.content for each in chat.batch(["What is histrio?"] * 2)] == [answer.content] * 2

pieces = list(chat.stream("What is histrio?"))
assert "".join(piece.content for piece in pieces) == answer.content
assert pieces  # how many they are is a matter of how fast the tokens come

helper = chat.bind_tools([get_weather])
history = [HumanMessage("What is the weather in Paris?")]
asked = helper.invoke(history)
(call,) = asked.tool_calls
assert call["args"] == {"city": "Paris"}, call
result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
last = helper.invoke([*history, asked, result])
assert "21 degrees" in last.content, last

snow = "The weather in Oslo is snowy at -3 degrees. Answer in JSON."
for method in ("json_schema", "json_mode"):
    report = chat.with_structured_output(Report, method=method).invoke(snow)
    assert report.city == "Oslo", (method, report)

Call = pydantic.create_model("get_weather", __doc__="Get the current weather in a city.", city=(str, ...))
called = chat.with_structured_output(Call, method="function_calling").invoke(history)
assert called.city == "Paris", called

embeddings = OpenAIEmbeddings(**server, check_embedding_ctx_length=False)
vectors = embeddings.embed_documents(["one", "two"])
assert len(vectors) == 2
assert vectors[0] != vectors[1]
assert max(abs(a - b) for a, b in zip(embeddings.embed_query("one"), vectors[0], strict=True)) < 1e-4

try:
    chat.bind(temperature=99).invoke("Hello")
except openai.BadRequestError as error:
    assert error.param == "temperature", error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["chat", "stream", "tools", "form", "embeddings", "errors"]
print(json.dumps({"client": f"langchain-openai {version('langchain-openai')}", "did": did}))
