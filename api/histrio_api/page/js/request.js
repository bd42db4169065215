// From a conversation to the request that goes on with it.

/** Path and body. Throws an `Error` in plain words for a setting that is no JSON. */
export function requestOf(conversation, described) {
  const { settings } = conversation;
  const known = Object.entries(settings.fields).filter(([name]) => name in described.fields);
  const body = { model: described.model.id, ...Object.fromEntries(known) };
  if (!described.model.has_chat_template) {
    const prompt = [settings.system, ...conversation.messages.map((message) => message.content)].filter(Boolean).join("");
    const room = described.model.max_sequence_length; // an upper bound: without one, completions end after 16 tokens
    return { path: "v1/completions", body: { max_tokens: room, ...body, prompt } };
  }

  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  body.messages = [...system, ...conversation.messages.filter((message) => !message.error || message.content).map(sent)];
  const tools = parsed(settings.tools, "The tools");
  if (tools !== undefined) {
    body.tools = (Array.isArray(tools) ? tools : [tools]).map((tool) => (tool.type ? tool : { type: "function", function: tool }));
    if (settings.toolChoice !== "auto") body.tool_choice = settings.toolChoice;
  }
  if (settings.form === "json_object") body.response_format = { type: "json_object" };
  if (settings.form === "json_schema") {
    const schema = parsed(settings.schema, "The schema") ?? {};
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  }
  return { path: "v1/chat/completions", body };
}

/** What a field's text means; undefined where there is none. */
export function parsed(text, what) {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${what} must be JSON: ${error.message}`);
  }
}

/** A message without what only the page knows of it. */
function sent({ role, content, tool_calls, tool_call_id }) {
  const message = { role, content: tool_calls?.length ? content || null : content };
  if (tool_calls?.length) message.tool_calls = tool_calls;
  if (tool_call_id) message.tool_call_id = tool_call_id;
  return message;
}
