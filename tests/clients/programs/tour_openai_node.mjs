// The official client of OpenAI for JavaScript: chats, streams, tools, forms, the Responses API, vectors and errors.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const Report = z.object({ city: z.string(), weather: z.string(), degrees: z.number().int() });

const client = new OpenAI({ baseURL: "http://127.0.0.1:3001/v1", apiKey: "none" });
const models = await client.models.list();
assert.deepEqual(models.data.map((model) => model.id), ["demo"]);

const messages = [{ role: "user", content: "What is histrio?" }];
const chat = { model: "demo", temperature: 0, max_tokens: 200 };
const answer = await client.chat.completions.create({ ...chat, messages });
const text = answer.choices[0].message.content;
assert.match(text, /runtime/);

const pieces = [];
for await (const piece of await client.chat.completions.create({ ...chat, messages, stream: true })) {
  pieces.push(piece.choices[0].delta.content ?? "");
}
assert.equal(pieces.join(""), text);
assert.ok(pieces.length); // how many they are is a matter of how fast the tokens come

const cities = [];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    parse: JSON.parse,
    function: ({ city }) => cities.push(city) && { weather: "sunny", degrees: 21 },
  },
};
const question = [{ role: "user", content: "What is the weather in Paris?" }];
const runner = client.chat.completions.runTools({ ...chat, messages: question, tools: [weather], stream: true });
assert.match(await runner.finalContent(), /21 degrees/);
assert.deepEqual(cities, ["Paris"]);

const snow = [{ role: "user", content: "The weather in Oslo is snowy at -3 degrees. Answer in JSON." }];
const form = zodResponseFormat(Report, "report");
const parsed = await client.chat.completions.parse({ ...chat, messages: snow, response_format: form });
assert.deepEqual(parsed.choices[0].message.parsed, { city: "Oslo", weather: "snowy", degrees: -3 });

const response = await client.responses.create({ model: "demo", input: "What is histrio?", temperature: 0 });
assert.equal(response.output_text, text);

const vectors = await client.embeddings.create({ model: "demo", input: ["one", "two"] });
assert.equal(vectors.data[0].embedding.length, vectors.data[1].embedding.length);
assert.notDeepEqual(vectors.data[0].embedding, vectors.data[1].embedding);

await assert.rejects(
  client.chat.completions.create({ ...chat, messages, temperature: 99 }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
);
await assert.rejects(client.chat.completions.create({ ...chat, messages, model: "other" }), OpenAI.NotFoundError);

const did = ["models", "chat", "stream", "tools", "form", "responses", "embeddings", "errors"];
console.log(JSON.stringify({ client: "openai (Node)", did }));
