"""LiteLLM: chats, streams, tools, forms, the Responses API and vectors of an OpenAI-compatible server."""

import json
import os
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or the import fetches a list of prices
import litellm

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

server = {"api_base": "http://127.0.0.1:3001/v1", "api_key": "none"}
question = [{"role": "user", "content": "What is histrio?"}]
answer = litellm.completion(model="openai/demo", messages=question, **server)

server |= {"num_retries": 0}
chat = {"model": "openai/demo", "temperature": 0, **server}
text = litellm.completion(messages=question, **chat).choices[0].message.content
assert "runtime" in text, text
assert answer.choices[0].message.content

pieces = list(litellm.completion(messages=question, stream=True, **chat))
assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
assert pieces  # how many they are is a matter of how fast the tokens come

history = [{"role": "user", "content": "What is the weather in Paris?"}]
message = litellm.completion(messages=history, tools=[WEATHER], **chat).choices[0].message
(call,) = message.tool_calls
assert json.loads(call.function.arguments) == {"city": "Paris"}
result = {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny", "degrees": 21}'}
last = litellm.completion(messages=[*history, message, result], tools=[WEATHER], **chat)
assert "21 degrees" in last.choices[0].message.content, last

snow = [{"role": "user", "content": "The weather in Oslo is snowy at -3 degrees. Answer in JSON."}]
report = litellm.completion(messages=snow, response_format={"type": "json_object"}, **chat)
assert json.loads(report.choices[0].message.content)["city"] == "Oslo"

response = litellm.responses(input="What is histrio?", **chat)
assert response.output[-1].content[0].text == text, response

vectors = litellm.embedding(model="openai/demo", input=["one", "two"], encoding_format="float", **server).data
assert vectors[0]["embedding"] != vectors[1]["embedding"]

try:
    litellm.completion(messages=question, **chat | {"temperature": 99})
except litellm.BadRequestError as error:
    assert "temperature" in str(error), error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["chat", "stream", "tools", "form", "responses", "embeddings", "errors"]
print(json.dumps({"client": f"litellm {version('litellm')}", "did": did}))
