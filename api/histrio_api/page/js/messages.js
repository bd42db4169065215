// How a message looks, and what can be done with it. An element is made once and brought up to date while text comes.

import { speedOf } from "./answering.js";
import { copyButton, h, icon, iconButton } from "./dom.js";
import { Rendering } from "./markdown.js";

const ENDS = {
  length: "The answer ended at its limit of tokens.",
  stopped: "Stopped.",
};

/**
 * The element of a message, and `update()`, which shows it as it is now. `actions` has what buttons do: `regenerate`,
 * `edit(text)`, `remove`, `answerCall(call, text)`, and `isOpen(call)`.
 */
export function messageView(message, actions) {
  if (message.role === "assistant") return assistantView(message, actions);
  const isTool = message.role === "tool";
  const body = h("div", { class: "bubble" });
  const element = h(
    "article",
    { class: `message ${message.role}`, "aria-label": isTool ? "Result of a tool" : "You" },
    isTool ? h("p", { class: "sender" }, icon("tool"), "Result of a tool") : null,
    body,
    foot(message, editor(body, message, "Send again", actions), actions),
  );
  const update = () => body.replaceChildren(h("div", { class: "plain-text" }, message.content));
  update();
  return { element, update };
}

function assistantView(message, actions) {
  const waiting = h("p", { class: "waiting" });
  const reasons = h("div", { class: "reasoning-text" });
  const summary = h("summary");
  const reasoning = h("details", { class: "reasoning" }, summary, reasons);
  const body = h("div", { class: "text" });
  const calls = h("div", { class: "calls" });
  const failure = h("div", { class: "failure" });
  const speed = h("p", { class: "speed" });
  const tools = foot(message, editor(body, message, "Save", actions), actions);
  const element = h("article", { class: "message assistant", "aria-label": "Answer" });
  element.append(waiting, reasoning, body, calls, failure, speed, tools);
  const rendering = new Rendering(body);
  let shown;

  function update() {
    const { running, content } = message;
    element.setAttribute("aria-busy", String(Boolean(running)));
    const isWaiting = running && !content && !message.reasoning && !message.tool_calls;
    waiting.hidden = !isWaiting;
    waiting.textContent = message.waiting ?? "";
    reasoning.hidden = !message.reasoning;
    if (message.reasoning) {
      const seconds = ((message.reasonedMs ?? 0) / 1000).toFixed(1);
      summary.textContent = running && !content ? "Reasoning…" : `Reasoned for ${seconds} s`;
      if (reasons.textContent !== message.reasoning) reasons.textContent = message.reasoning;
    }
    if (shown !== content) rendering.show((shown = content));
    body.hidden = !content;
    calls.replaceChildren(...(message.tool_calls ?? []).map((call) => callView(call, message, actions)));
    failure.replaceChildren(...failureParts(message, actions));
    failure.hidden = !failure.childElementCount;
    speed.textContent = speedOf(message);
    tools.hidden = Boolean(running);
  }

  update();
  return { element, update };
}

function failureParts(message, { regenerate }) {
  if (message.error) {
    const again = h("button", { type: "button", class: "button", on: { click: regenerate } }, icon("again"), "Try again");
    return [h("p", { class: "error", role: "alert" }, message.error), again];
  }
  const end = message.running ? undefined : ENDS[message.finish];
  return end ? [h("p", { class: "end" }, end)] : [];
}

/** Name and arguments; below them, until there is one, room for the tool's result. */
function callView(call, message, { isOpen, answerCall }) {
  const view = h("div", { class: "call" });
  view.append(h("p", { class: "sender" }, icon("tool"), call.function.name || "…"), h("pre", { tabindex: "0" }, pretty(call.function.arguments)));
  if (message.running || !isOpen(call)) return view;
  const input = h("textarea", { rows: "2", "aria-label": `Result of ${call.function.name}`, placeholder: "What the tool answers" });
  const send = h("button", { type: "submit", class: "button" }, "Give this result");
  const form = h("form", { class: "call-answer" }, input, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    answerCall(call, input.value);
  });
  view.append(form);
  return view;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // it is still coming, or was never JSON
  }
}

function foot(message, edit, { regenerate, remove }) {
  const isAnswer = message.role === "assistant";
  return h(
    "div",
    { class: "message-foot" },
    copyButton(() => message.content ?? ""),
    isAnswer ? iconButton("again", "Answer again", regenerate) : null,
    iconButton("edit", "Edit", edit),
    iconButton("bin", "Delete this message and all after it", remove),
  );
}

/** Puts a text box in the place of the body until it is saved or given up. */
function editor(body, message, label, { edit }) {
  return () => {
    if (body.querySelector("form.editor")) return;
    const area = h("textarea", { class: "edit-area", "aria-label": "Text of the message", rows: "4" });
    area.value = message.content ?? "";
    const before = [...body.childNodes];
    const close = () => body.replaceChildren(...before);
    const cancel = h("button", { type: "button", class: "plain-button", on: { click: close } }, "Cancel");
    const form = h("form", { class: "editor" }, area, h("div", { class: "row" }, h("button", { type: "submit", class: "button" }, label), cancel));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close();
      edit(area.value);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
    });
    body.hidden = false;
    body.replaceChildren(form);
    area.focus();
  };
}
