// What a conversation is: its messages, and the settings with which it goes on.

const TITLE_CHARS = 48;

/** One without messages, with the settings of another one if that is given. */
export function newConversation(settings) {
  const now = Date.now();
  const plain = { system: "", fields: {}, form: "text", schema: "", tools: "", toolChoice: "auto" };
  return {
    id: freshId(now),
    title: "",
    created: now,
    updated: now,
    settings: { ...plain, ...structuredClone(settings ?? {}) },
    messages: [],
  };
}

/** The name that it was given, or else the beginning of its first message. */
export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user")?.content ?? "";
  const line = conversation.title || first.trim().split("\n")[0];
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS)}…` : line || "New conversation";
}

/** Whether any of its texts has these words. */
export function matches(conversation, words) {
  const wanted = words.trim().toLowerCase();
  if (!wanted) return true;
  const texts = [titleOf(conversation), ...conversation.messages.map((message) => message.content ?? "")];
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

/** Calls of the last answer that no message has answered yet. */
export function openCalls(conversation) {
  const { messages } = conversation;
  const at = messages.findLastIndex((message) => message.role === "assistant");
  const answered = new Set(messages.slice(at + 1).map((message) => message.tool_call_id));
  return (messages[at]?.tool_calls ?? []).filter((call) => !answered.has(call.id));
}

function freshId(now) {
  const random = crypto.getRandomValues(new Uint32Array(2));
  return `${now.toString(36)}-${random[0].toString(36)}${random[1].toString(36)}`;
}
