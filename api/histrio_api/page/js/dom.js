// Elements without markup: every text becomes a text node, so nothing from a model or a server is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element. `attributes.on` has listeners by event; attributes that are false, null or undefined are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for a part of a drawing. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** One of the drawings at the end of index.html. */
export function icon(name) {
  return s("svg", { "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));
}

/** A button with a drawing, whose words are for screen readers and for a pointer that rests on it. */
export function iconButton(name, label, onClick) {
  const attributes = { type: "button", class: "icon-button small", "aria-label": label, title: label };
  return h("button", { ...attributes, on: { click: onClick } }, icon(name));
}

let numbered = 0;

/** An id that no other element has. */
export const freshId = (prefix) => `${prefix}-${(numbered += 1)}`;

/** Say something that went wrong, or well, for a while. */
export function notify(text) {
  const notice = byId("notice");
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(notify.timer);
  notify.timer = setTimeout(() => (notice.hidden = true), 6000);
}

/** Put a text on the clipboard, also where the page came over plain HTTP from another machine. */
export async function copy(text) {
  if (window.isSecureContext && navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = h("textarea", { class: "sr-only", "aria-hidden": "true" });
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A button that copies what `text()` answers, and says so. */
export function copyButton(text, { label = "Copy" } = {}) {
  const word = h("span", {}, label);
  const button = h("button", { type: "button", class: "plain-button" }, icon("copy"), word);
  button.addEventListener("click", async () => {
    await copy(text());
    word.textContent = "Copied";
    setTimeout(() => (word.textContent = label), 1500);
  });
  return button;
}

function fill(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
