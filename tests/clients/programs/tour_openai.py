"""The official client of OpenAI: chats, streams, tools, forms, the Responses API, vectors and errors."""

import json

import openai
import pydantic

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Report(pydantic.BaseModel):
    """What the weather is."""

    city: str
    weather: str
    degrees: int


client = openai.OpenAI(base_url="http://127.0.0.1:3001/v1", api_key="none")
assert [model.id for model in client.models.list()] == ["demo"]

question = [{"role": "user", "content": "What is histrio?"}]
chat = {"model": "demo", "temperature": 0}
answer = client.chat.completions.create(messages=question, **chat)
text = answer.choices[0].message.content
assert "runtime" in text, text

pieces = list(
    client.chat.completions.create(messages=question, stream=True, stream_options={"include_usage": True}, **chat)
)
assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text
assert pieces[-1].usage == answer.usage
assert pieces  # how many they are is a matter of how fast the tokens come

history = [{"role": "user", "content": "What is the weather in Paris?"}]
message = client.chat.completions.create(messages=history, tools=[WEATHER], **chat).choices[0].message
(call,) = message.tool_calls
assert json.loads(call.function.arguments) == {"city": "Paris"}
result = {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny", "degrees": 21}'}
last = client.chat.completions.create(messages=[*history, message, result], tools=[WEATHER], **chat)
assert "21 degrees" in last.choices[0].message.content, last

snow = [{"role": "user", "content": "The weather in Oslo is snowy at -3 degrees. Answer in JSON."}]
parsed = client.chat.completions.parse(messages=snow, response_format=Report, **chat).choices[0].message.parsed
assert parsed == Report(city="Oslo", weather="snowy", degrees=-3), parsed

continued = client.completions.create(prompt="Once upon a time", max_tokens=8, logprobs=1, **chat)
assert len(continued.choices[0].logprobs.tokens) == continued.usage.completion_tokens == 8

response = client.responses.create(model="demo", input="What is histrio?", temperature=0)
assert response.output_text == text
with client.responses.stream(model="demo", input="What is histrio?", temperature=0) as stream:
    assert stream.get_final_response().output_text == text

vectors = client.embeddings.create(model="demo", input=["one", "two"]).data
assert len(vectors) == 2
assert abs(sum(value * value for value in vectors[0].embedding) - 1) < 1e-4
assert vectors[0].embedding != vectors[1].embedding

try:
    client.chat.completions.create(model="demo", messages=question, temperature=99)
except openai.BadRequestError as error:
    assert error.param == "temperature", error
else:
    raise AssertionError("a temperature of 99 was taken")
try:
    client.chat.completions.create(model="other", messages=question)
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
else:
    raise AssertionError("an unknown model answered")

did = ["models", "chat", "stream", "tools", "form", "completion", "responses", "embeddings", "errors"]
print(json.dumps({"client": f"openai {openai.__version__}", "did": did}))
