"""instructor: answers in the form of a class, by tools, by a schema and by JSON, whole and while they come."""

import json
from importlib.metadata import version

import instructor
import openai
import pydantic


class Report(pydantic.BaseModel):
    """What the weather is."""

    city: str
    weather: str
    degrees: int


Call = pydantic.create_model("get_weather", __doc__="Get the current weather in a city.", city=(str, ...))

openai_client = openai.OpenAI(base_url="http://127.0.0.1:3001/v1", api_key="none")
client = instructor.from_openai(openai_client, mode=instructor.Mode.JSON_SCHEMA)
snow = [{"role": "user", "content": "The weather in Oslo is snowy at -3 degrees. Answer in JSON."}]
given = {"model": "demo", "messages": snow, "temperature": 0, "max_tokens": 200, "max_retries": 0}
report = client.chat.completions.create(response_model=Report, **given)
assert report.model_dump() == {"city": "Oslo", "weather": "snowy", "degrees": -3}, report

partial = list(client.chat.completions.create_partial(response_model=Report, **given))
assert partial[-1].model_dump() == report.model_dump(), partial[-1]
whole = json.dumps(report.model_dump())
for part in partial:  # how many there are is a matter of how fast the tokens come
    assert all(value is None or str(value) in whole for value in part.model_dump().values()), part

other = instructor.from_openai(openai_client, mode=instructor.Mode.JSON)
assert other.chat.completions.create(response_model=Report, **given).city == "Oslo"

given["messages"] = [{"role": "user", "content": "What is the weather in Paris?"}]
for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
    other = instructor.from_openai(openai_client, mode=mode)
    found = other.chat.completions.create(response_model=Call, **given)
    assert found.city == "Paris", (mode, found)

try:
    client.chat.completions.create(response_model=Report, **given | {"temperature": 99})
except Exception as error:
    assert "temperature" in str(error), error
else:
    raise AssertionError("a temperature of 99 was taken")

print(
    json.dumps(
        {"client": f"instructor {version('instructor')}", "did": ["stream", "tools", "form", "errors"]},
    )
)
