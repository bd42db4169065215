"""LlamaIndex: chats, streams, tools, forms and vectors of an OpenAI-like model."""

import json
from importlib.metadata import version

import openai
import pydantic
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike


def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return f"It is sunny in {city}."


server = {"api_base": "http://127.0.0.1:3001/v1", "api_key": "none"}
llm = OpenAILike(model="demo", is_chat_model=True, is_function_calling_model=True, **server)

llm.temperature, llm.max_tokens = 0, 200
question = [ChatMessage("What is histrio?")]
text = llm.chat(question).message.content
assert "runtime" in text, text

pieces = list(llm.stream_chat(question))
assert "".join(piece.delta or "" for piece in pieces) == text
assert pieces  # how many they are is a matter of how fast the tokens come

asked = llm.chat_with_tools([FunctionTool.from_defaults(get_weather)], "What is the weather in Paris?")
(call,) = llm.get_tool_calls_from_response(asked)
assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Paris"}), call

Call = pydantic.create_model("get_weather", __doc__="Get the current weather in a city.", city=(str, ...))
called = llm.as_structured_llm(Call).chat([ChatMessage("What is the weather in Paris?")]).raw
assert called.city == "Paris", called

embedding = OpenAILikeEmbedding(model_name="demo", **server)
vectors = embedding.get_text_embedding_batch(["one", "two"])
assert len(vectors) == 2
assert vectors[0] != vectors[1]

try:
    llm.chat(question, temperature=99)
except openai.BadRequestError as error:
    assert error.param == "temperature", error
else:
    raise AssertionError("a temperature of 99 was taken")

did = ["chat", "stream", "tools", "form", "embeddings", "errors"]
print(json.dumps({"client": f"llama-index-llms-openai-like {version('llama-index-llms-openai-like')}", "did": did}))
