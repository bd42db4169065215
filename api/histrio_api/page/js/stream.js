// Server-sent events of an answer, and the answer that their deltas add up to.

import { ServerError } from "./server.js";

/** The data of each event, parsed, until the stream ends. Throws `ServerError` for an error in it. */
export async function* events(response) {
  let rest = "";
  for await (const text of texts(response)) {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue; // comments keep the connection alive
      const data = line.slice(5).trim();
      if (data === "[DONE]") continue; // the end follows, and leaving before it would count as giving up
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(event.error.message, 200);
      yield event;
    }
  }
}

/** Add one chunk to an assistant's message; answers whether it brought any text. */
export function addChunk(message, chunk) {
  const choice = chunk.choices?.[0];
  if (chunk.usage) message.usage = chunk.usage;
  if (!choice) return false;
  if (choice.finish_reason) message.finish = choice.finish_reason;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? { content: choice.text };
  if (content) message.content += content;
  if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
  for (const call of calls ?? []) addCall((message.tool_calls ??= []), call);
  return Boolean(content || reasoning || calls?.length);
}

/** Pieces of a call come with its index; id and name only with the first one. */
function addCall(calls, { index = calls.length, id, function: piece = {} }) {
  const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
  if (id) call.id = id;
  if (piece.name) call.function.name = piece.name;
  if (piece.arguments) call.function.arguments += piece.arguments;
}

/** Texts as they arrive; characters that two packets share are put together. */
async function* texts(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
