// The list of conversations: search, open, rename, delete.

import { matches, titleOf } from "./conversation.js";
import { byId, h, iconButton } from "./dom.js";

/** Show those that have the words of the search box. `actions`: `open`, `rename(each, title)`, `remove`. */
export function showConversations(conversations, current, actions) {
  const found = conversations.filter((each) => each.messages.length && matches(each, byId("search").value));
  const items = found.map((each) => item(each, each.id === current.id, actions));
  const words = byId("search").value.trim() ? "Nothing found." : "Nothing here yet.";
  byId("conversations").replaceChildren(...(items.length ? items : [h("li", { class: "none" }, words)]));
}

function item(conversation, isCurrent, { open, rename, remove }) {
  const title = titleOf(conversation);
  const attributes = { type: "button", class: "conversation", "aria-current": isCurrent ? "true" : false, title };
  const button = h("button", { ...attributes, on: { click: () => open(conversation) } }, title);
  const row = h(
    "li",
    { class: isCurrent ? "current" : "" },
    button,
    iconButton("edit", `Rename “${title}”`, () => row.replaceChildren(renaming(conversation, title, rename))),
    iconButton("bin", `Delete “${title}”`, () => remove(conversation)),
  );
  return row;
}

function renaming(conversation, title, rename) {
  const input = h("input", { type: "text", "aria-label": "Name of the conversation", maxlength: "120" });
  input.value = title;
  const form = h("form", { class: "renaming" }, input);
  let isOver = false;
  const end = (name) => {
    if (isOver) return;
    isOver = true;
    rename(conversation, name);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    end(input.value.trim());
  });
  input.addEventListener("blur", () => end(input.value.trim()));
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    end(conversation.title);
  });
  queueMicrotask(() => input.select());
  return form;
}
