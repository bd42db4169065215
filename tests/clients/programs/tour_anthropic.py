"""The official client of Anthropic: messages, streams, tools, counts and errors."""

import json

import anthropic

WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

client = anthropic.Anthropic(base_url="http://127.0.0.1:3001", api_key="none")
assert [model.id for model in client.models.list()] == ["demo"]

question = [{"role": "user", "content": "What is histrio?"}]
given = {"model": "demo", "max_tokens": 200, "extra_body": {"temperature": 0}}
answer = client.messages.create(messages=question, **given)
text = answer.content[0].text
assert "runtime" in text, text
assert answer.stop_reason == "end_turn"

with client.messages.stream(messages=question, **given) as stream:
    pieces = list(stream.text_stream)
    streamed = stream.get_final_message()
assert "".join(pieces) == text
assert pieces  # how many they are is a matter of how fast the tokens come
assert streamed.usage.output_tokens == answer.usage.output_tokens

history = [{"role": "user", "content": "What is the weather in Paris?"}]
asked = client.messages.create(messages=history, tools=[WEATHER], **given)
(call,) = asked.content
assert (asked.stop_reason, call.input) == ("tool_use", {"city": "Paris"}), asked
result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"weather": "sunny", "degrees": 21}'}
history += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
last = client.messages.create(messages=history, tools=[WEATHER], **given)
assert "21 degrees" in last.content[0].text, last

counted = client.messages.count_tokens(model="demo", messages=question)
assert counted.input_tokens == answer.usage.input_tokens

try:
    client.messages.create(messages=question, **given | {"extra_body": {"temperature": 99}})
except anthropic.BadRequestError as error:
    assert "temperature" in str(error), error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["models", "chat", "stream", "tools", "count", "errors"]
print(json.dumps({"client": f"anthropic {anthropic.__version__}", "did": did}))
