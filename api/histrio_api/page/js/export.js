// Conversations as files.

import { titleOf } from "./conversation.js";
import { h } from "./dom.js";

/** Have the browser save a text. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  link.click();
  URL.revokeObjectURL(url);
}

/** A name without what file systems dislike. */
export function fileName(conversation, suffix) {
  const words = titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${words || "conversation"}.${suffix}`;
}

export const asJson = (conversations) => `${JSON.stringify({ version: 1, conversations }, null, 2)}\n`;

/** For people: headings are the roles. */
export function asMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.settings.system.trim()) parts.push(`## System`, conversation.settings.system);
  for (const message of conversation.messages) {
    parts.push(`## ${message.role[0].toUpperCase()}${message.role.slice(1)}`);
    if (message.reasoning) parts.push(`<details><summary>Reasoning</summary>\n\n${message.reasoning}\n\n</details>`);
    if (message.content) parts.push(message.content);
    for (const call of message.tool_calls ?? []) {
      parts.push(`\`\`\`json\n${JSON.stringify({ name: call.function.name, arguments: call.function.arguments })}\n\`\`\``);
    }
  }
  return `${parts.join("\n\n")}\n`;
}
