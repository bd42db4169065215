// One answer, from the request to its last token, with what a person wants to know of its speed.

import { events, addChunk } from "./stream.js";
import { post } from "./server.js";

const SAVE_EVERY_MS = 2000;

/**
 * Ask for the answer to a request and add it to `message` as it comes. `show()` is called after each change, `save()`
 * now and then; `untilReady(signal)` waits for a server that is loading. What goes wrong stands in `message.error`.
 */
export async function answer({ path, body }, message, { signal, show, save, untilReady }) {
  const began = performance.now();
  let saved = began;
  const streamed = { ...body, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  message.running = true;
  show();
  try {
    const response = await opened(path, streamed, message, { signal, show, untilReady });
    for await (const chunk of events(response)) {
      const now = performance.now();
      if (addChunk(message, chunk)) note(message, now - began);
      if (now - saved > SAVE_EVERY_MS) {
        saved = now;
        save();
      }
      show();
    }
    if (!message.finish) message.error = "The answer broke off before its end.";
  } catch (error) {
    if (signal.aborted) message.finish = "stopped";
    else message.error = error.message;
  } finally {
    delete message.running;
    delete message.waiting;
    show();
    save();
  }
}

/** The response, once the server takes requests: 503 says that it will. */
async function opened(path, body, message, { signal, show, untilReady }) {
  for (;;) {
    try {
      return await post(path, body, signal);
    } catch (error) {
      if (error.status !== 503) throw error;
      message.waiting = error.message;
      show();
      await untilReady(signal, error);
      delete message.waiting;
    }
  }
}

/** Time to the first token, to the end of the reasoning, and so far. */
function note(message, elapsedMs) {
  message.firstMs ??= elapsedMs;
  message.lastMs = elapsedMs;
  if (!message.content && message.reasoning) message.reasonedMs = elapsedMs;
}

/** "128 tokens · 42.1 tokens/s · first token after 0.08 s" */
export function speedOf({ usage, firstMs, lastMs }) {
  if (!usage || firstMs === undefined) return "";
  const tokens = usage.completion_tokens;
  const parts = [`${tokens.toLocaleString()} ${tokens === 1 ? "token" : "tokens"}`];
  if (tokens > 1 && lastMs > firstMs) parts.push(`${(((tokens - 1) * 1000) / (lastMs - firstMs)).toFixed(1)} tokens/s`);
  parts.push(`first token after ${(firstMs / 1000).toFixed(2)} s`);
  return parts.join(" · ");
}
