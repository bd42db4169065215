// The AI SDK of Vercel: texts, streams, tools in a loop, objects, vectors and errors.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";


const server = { baseURL: "http://127.0.0.1:3001/v1", supportsStructuredOutputs: true };
const histrio = createOpenAICompatible({ name: "histrio", ...server });
const model = histrio("demo");

const exact = { model, temperature: 0, maxOutputTokens: 200, maxRetries: 0 };
const { text } = await generateText({ ...exact, prompt: "What is histrio?" });
assert.match(text, /runtime/);

const pieces = [];
for await (const piece of streamText({ ...exact, prompt: "What is histrio?" }).textStream) pieces.push(piece);
assert.equal(pieces.join(""), text);
assert.ok(pieces.length); // how many they are is a matter of how fast the tokens come

const cities = [];
const get_weather = tool({
  description: "Get the current weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => cities.push(city) && { weather: "sunny", degrees: 21 },
});
const asked = { ...exact, tools: { get_weather }, stopWhen: stepCountIs(3), prompt: "What is the weather in Paris?" };
assert.match((await generateText(asked)).text, /21 degrees/);
assert.match(await streamText(asked).text, /21 degrees/);
assert.deepEqual(cities, ["Paris", "Paris"]);

const Report = z.object({ city: z.string(), weather: z.string(), degrees: z.number().int() });
const snow = "The weather in Oslo is snowy at -3 degrees. Answer in JSON.";
const report = await generateText({ ...exact, prompt: snow, output: Output.object({ schema: Report }) });
assert.deepEqual(report.output, { city: "Oslo", weather: "snowy", degrees: -3 });

const { embeddings } = await embedMany({ model: histrio.embeddingModel("demo"), values: ["one", "two"] });
assert.notDeepEqual(embeddings[0], embeddings[1]);

await assert.rejects(
  generateText({ ...exact, temperature: 99, prompt: "Hello" }),
  (error) => APICallError.isInstance(error) && error.statusCode === 400 && /temperature/.test(error.message),
);

const did = ["chat", "stream", "tools", "form", "embeddings", "errors"];
console.log(JSON.stringify({ client: "ai (Vercel)", did }));
