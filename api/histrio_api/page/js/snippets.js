// The next request of a conversation as a command, and as a program. The key is never part of them.

import { address } from "./server.js";

const OPENAI_FIELDS = new Set(
  `model messages prompt max_tokens temperature top_p n stop seed presence_penalty frequency_penalty logit_bias tools
  tool_choice parallel_tool_calls response_format reasoning_effort stream`.split(/\s+/),
);

/** For a shell. */
export function asCurl({ path, body }, hasKey) {
  const lines = [`curl -N ${address()}/${path}`, `  -H 'Content-Type: application/json'`];
  if (hasKey) lines.push(`  -H "Authorization: Bearer $HISTRIO_API_KEY"`);
  lines.push(`  -d '${JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("'", `'\\''`)}'`);
  return lines.join(" \\\n");
}

/** For Python, with the official client of OpenAI. */
export function asPython({ path, body }, hasKey) {
  const isChat = path.includes("chat");
  const entries = Object.entries(body);
  const others = entries.filter(([name]) => !OPENAI_FIELDS.has(name));
  const lines = entries.filter(([name]) => OPENAI_FIELDS.has(name)).map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  if (others.length) lines.push(`    extra_body=${literal(Object.fromEntries(others), 4)},`);
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${address()}/v1", api_key=${hasKey ? 'os.environ["HISTRIO_API_KEY"]' : '"none"'})
stream = client.${isChat ? "chat.completions" : "completions"}.create(
${lines.join("\n")}
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].${isChat ? 'delta.content or ""' : "text"}, end="", flush=True)
print()
`;
}

/** A JSON value as Python writes it. */
function literal(value, indent) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const inner = " ".repeat(indent + 4);
  const items = Array.isArray(value)
    ? value.map((each) => `${inner}${literal(each, indent + 4)},\n`)
    : Object.entries(value).map(([name, each]) => `${inner}${JSON.stringify(name)}: ${literal(each, indent + 4)},\n`);
  return items.length ? `${open}\n${items.join("")}${" ".repeat(indent)}${close}` : `${open}${close}`;
}
