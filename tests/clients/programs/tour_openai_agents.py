"""The OpenAI Agents SDK: an agent calls its tool and answers, in both of its ways to a model."""

import asyncio
import json
from importlib.metadata import version

import agents
import openai
import pydantic

cities = []


@agents.function_tool
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    cities.append(city)
    return '{"weather": "sunny", "degrees": 21}'


class Report(pydantic.BaseModel):
    """What the weather is."""

    city: str
    weather: str
    degrees: int


client = openai.AsyncOpenAI(base_url="http://127.0.0.1:3001/v1", api_key="none")
model = agents.OpenAIChatCompletionsModel(model="demo", openai_client=client)
agents.set_tracing_disabled(True)

exact = agents.ModelSettings(temperature=0)


async def tour(model: agents.Model) -> None:
    """What an agent does."""
    plain = agents.Agent(name="plain", model=model, model_settings=exact)
    text = (await agents.Runner.run(plain, "What is histrio?")).final_output
    assert "runtime" in text, text

    stream = agents.Runner.run_streamed(plain, "What is histrio?")
    deltas = [
        event.data.delta
        async for event in stream.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == text
    assert deltas  # how many they are is a matter of how fast the tokens come

    cities.clear()
    helper = agents.Agent(name="helper", model=model, tools=[get_weather], model_settings=exact)
    answer = (await agents.Runner.run(helper, "What is the weather in Paris?")).final_output
    assert cities == ["Paris"]
    assert "21 degrees" in answer, answer

    reporter = agents.Agent(name="reporter", model=model, output_type=Report, model_settings=exact)
    snow = "The weather in Oslo is snowy at -3 degrees. Answer in JSON."
    report = (await agents.Runner.run(reporter, snow)).final_output
    assert report == Report(city="Oslo", weather="snowy", degrees=-3), report

    wild = agents.Agent(name="wild", model=model, model_settings=agents.ModelSettings(temperature=99))
    try:
        await agents.Runner.run(wild, "Hello")
    except openai.BadRequestError as error:
        assert error.param == "temperature", error
    else:
        raise AssertionError("a temperature of 99 was taken")


asyncio.run(tour(model))
asyncio.run(tour(agents.OpenAIResponsesModel(model="demo", openai_client=client)))

did = ["chat", "stream", "tools", "form", "responses", "errors"]
print(json.dumps({"client": f"openai-agents {version('openai-agents')}", "did": did}))
