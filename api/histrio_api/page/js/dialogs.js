// Questions in a dialog: the API key, whether to delete, and what to do with a conversation.

import { byId, copyButton, h } from "./dom.js";
import { key, setKey } from "./server.js";

/** Ask for the API key; resolves with whether one was given. */
export function askForKey() {
  const input = h("input", { id: "key-input", type: "password", autocomplete: "off", spellcheck: "false" });
  input.value = key();
  const keep = h("input", { id: "key-keep", type: "checkbox" });
  const about = "It is sent to this server only, and kept in this browser: until the tab is closed, or longer if you say so.";
  const parts = [
    h("p", {}, about),
    h("label", { for: "key-input", class: "field-title" }, "API key"),
    input,
    h("label", { class: "check", for: "key-keep" }, keep, "Remember it in this browser"),
  ];
  return ask("API key", parts, "Use this key", () => setKey(input.value.trim(), keep.checked));
}

/** Resolves with whether the person agrees. */
export const confirmed = (title, text, label) => ask(title, [h("p", {}, text)], label);

/** The next request as code, and the conversation as files. */
export function share({ curl, python, exportJson, exportMarkdown }) {
  const block = (title, text) =>
    h("section", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, title), copyButton(() => text, { label: `Copy as ${title}` })), h("pre", { tabindex: "0" }, text));
  const files = h(
    "div",
    { class: "row" },
    h("button", { type: "button", class: "button", on: { click: exportMarkdown } }, "Save as Markdown"),
    h("button", { type: "button", class: "button", on: { click: exportJson } }, "Save as JSON"),
  );
  return ask("This conversation elsewhere", [files, block("cURL", curl), block("Python", python)]);
}

/** A dialog with these parts; without a label it can only be closed. The browser keeps the focus inside. */
function ask(title, parts, label, accept = () => {}) {
  const dialog = byId("dialog");
  const close = h("button", { type: "button", class: label ? "plain-button" : "button", on: { click: () => dialog.close("") } }, label ? "Cancel" : "Close");
  const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), parts);
  form.append(h("div", { class: "row end" }, close, label ? h("button", { type: "submit", class: "button primary" }, label) : ""));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    accept();
    dialog.close("yes");
  });
  if (dialog.open) dialog.close("");
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}
