// A model's text as elements. HTML in it stays text, what markdown-it writes is sanitised, and nothing is loaded: an
// image is a link, since its address could carry away what was said.

import { copyButton, h } from "./dom.js";

const { markdownit, DOMPurify } = window;

const reader = markdownit({ html: false, linkify: true }).disable("image");
const CLEAN = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
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

/** Shows a text that grows: of its blocks only those are made anew that have changed, which are mostly the last one. */
export class Rendering {
  #element;
  #blocks = [];

  constructor(element) {
    this.#element = element;
  }

  show(text) {
    const wanted = blocksOf(text);
    const differs = wanted.findIndex((html, at) => html !== this.#blocks[at]?.html);
    const numSame = differs < 0 ? wanted.length : differs;
    for (const { element } of this.#blocks.splice(numSame)) element.remove();
    if (numSame === wanted.length) return;
    const fragment = cleaned(wanted.slice(numSame).join(""));
    this.#blocks.push(...[...fragment.children].map((element, at) => ({ html: wanted[numSame + at], element })));
    this.#element.append(fragment);
  }
}

/** The HTML of each paragraph, list, table … of the text, in an element of its own. */
function blocksOf(text) {
  const env = {};
  const tokens = reader.parse(text, env);
  const found = [];
  let begin = 0;
  tokens.forEach(({ level, nesting }, at) => {
    if (level > 0 || nesting > 0) return; // within a block, or where one begins
    found.push(`<div class="block">${reader.renderer.render(tokens.slice(begin, at + 1), reader.options, env)}</div>`);
    begin = at + 1;
  });
  return found;
}

function cleaned(html) {
  const fragment = DOMPurify.sanitize(html, CLEAN);
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
