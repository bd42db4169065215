// A model's text as elements. HTML in it stays text, what markdown-it writes is sanitised, and nothing is loaded: an
// image is a link, since its address could carry away what was said.

import { copyButton, h } from "./dom.js";

const { markdownit, DOMPurify } = window;

const reader = markdownit({ html: false, linkify: true }).disable("image");
const CLEAN = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["href", "class", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
};

// The page's policy forbids style attributes: the alignment of a column is a class.
for (const rule of ["th_open", "td_open"]) {
  reader.renderer.rules[rule] = (tokens, index, options, _env, self) => {
    const style = tokens[index].attrGet("style") ?? "";
    tokens[index].attrs = style.includes("right") ? [["class", "right"]] : style.includes("center") ? [["class", "center"]] : null;
    return self.renderToken(tokens, index, options);
  };
}

/** A fragment that shows the text. */
export function rendered(text) {
  const fragment = DOMPurify.sanitize(reader.render(text), CLEAN);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

function codeBlock(pre) {
  const code = pre.querySelector("code") ?? pre;
  const language = /language-([\w+#.-]+)/.exec(code.className)?.[1] ?? "text";
  pre.tabIndex = 0;
  const head = h("div", { class: "code-head" }, h("span", {}, language), copyButton(() => code.textContent));
  const block = h("div", { class: "code" }, head);
  block.append(pre.cloneNode(true));
  return block;
}
