// One field of a request as a labelled input. What it may be comes from the server, as a JSON schema.

import { freshId, h } from "./dom.js";

const MOST_SLIDER_STEPS = 400;

/**
 * The input of a field. `value` is undefined where nothing is sent; `changed(value)` is told what is wanted, and only
 * of values within the bounds.
 */
export function fieldView(name, schema, value, changed, placeholder) {
  const kind = simple(schema);
  const id = freshId("field");
  const error = h("p", { class: "field-error", id: `${id}-error`, role: "alert", hidden: true });
  const input = inputOf(kind, { id, "aria-describedby": `${id}-error` }, placeholder ?? shown(schema.default));
  write(input, kind, value);
  const told = () => {
    const found = read(input, kind);
    error.hidden = !found.error;
    error.textContent = found.error ?? "";
    input.toggleAttribute("aria-invalid", Boolean(found.error));
    if (!found.error) changed(found.value);
  };
  input.addEventListener("input", told);
  const label = h("label", { for: id, class: "field-name" }, name);
  const head = h("div", { class: "field-head" }, label, h("span", { class: "field-bounds" }, boundsOf(kind)));
  const slider = sliderOf(kind, input, told, placeholder ?? schema.default, name);
  const about = schema.description ? h("p", { class: "field-about" }, schema.description.replaceAll("`", "")) : null;
  return h("div", { class: "field" }, head, slider ? h("div", { class: "with-slider" }, slider, input) : input, error, about);
}

/** The schema without "or nothing". */
function simple(schema) {
  const some = schema.anyOf?.filter((each) => each.type !== "null");
  return some?.length ? { ...schema, ...some[0] } : schema;
}

function inputOf(kind, attributes, placeholder) {
  if (kind.enum || kind.type === "boolean") {
    const options = (kind.enum ?? [true, false]).map((each) => h("option", { value: JSON.stringify(each) }, String(each)));
    return h("select", attributes, h("option", { value: "" }, placeholder ? `default (${placeholder})` : "default"), options);
  }
  if (kind.type === "number" || kind.type === "integer") {
    return h("input", { ...attributes, type: "text", inputmode: "decimal", autocomplete: "off", placeholder: placeholder || "not set" });
  }
  if (kind.type === "string") return h("input", { ...attributes, type: "text", placeholder: placeholder || "not set", autocomplete: "off" });
  const help = isTexts(kind) ? "one per line" : "JSON";
  return h("textarea", { ...attributes, rows: "2", spellcheck: "false", placeholder: help });
}

const isTexts = (kind) => kind.type === "array" && kind.items?.type === "string";

function write(input, kind, value) {
  if (value === undefined) input.value = "";
  else if (kind.enum || kind.type === "boolean") input.value = JSON.stringify(value);
  else if (isTexts(kind)) input.value = value.map((each) => each.replaceAll("\n", "\\n")).join("\n");
  else input.value = typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** What the input means: a value, undefined for an empty one, or an error in words. */
function read(input, kind) {
  const text = input.value.trim();
  if (!text) return {};
  if (kind.enum || kind.type === "boolean") return { value: JSON.parse(text) };
  if (kind.type === "string") return { value: input.value };
  if (kind.type === "number" || kind.type === "integer") {
    const value = Number(text);
    return isWithin(value, kind) ? { value } : { error: `must be ${kind.type === "integer" ? "an integer" : "a number"} ${boundsOf(kind)}` };
  }
  if (isTexts(kind)) {
    const value = input.value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
    const isTooMany = value.length > (kind.maxItems ?? Infinity);
    const isTooLong = value.some((each) => each.length > (kind.items.maxLength ?? Infinity));
    return isTooMany || isTooLong ? { error: `at most ${kind.maxItems} of at most ${kind.items.maxLength} characters` } : { value };
  }
  try {
    return { value: JSON.parse(text) };
  } catch {
    return { error: "must be JSON" };
  }
}

function isWithin(value, { type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  if (!Number.isFinite(value) || (type === "integer" && !Number.isSafeInteger(value))) return false;
  return !(value < minimum || value > maximum || value <= exclusiveMinimum || value >= exclusiveMaximum);
}

function boundsOf({ type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  if (type !== "number" && type !== "integer") return "";
  const low = minimum ?? exclusiveMinimum;
  const high = maximum ?? exclusiveMaximum;
  const isOpenEnded = high === undefined || high >= 2 ** 31 - 1;
  if (low === undefined) return isOpenEnded ? "" : `at most ${high.toLocaleString()}`;
  const from = exclusiveMinimum === undefined ? "from" : "above";
  return isOpenEnded ? `${from} ${low}` : `${from} ${low} to ${high.toLocaleString()}`;
}

/** A slider beside the input, for numbers between two bounds that are not far apart. */
function sliderOf(kind, input, told, fallback, name) {
  const low = kind.minimum ?? kind.exclusiveMinimum;
  const { maximum: high } = kind;
  const step = kind.type === "integer" ? 1 : 0.01;
  if (low === undefined || high === undefined || (high - low) / step > MOST_SLIDER_STEPS) return null;
  const slider = h("input", { type: "range", min: low, max: high, step, "aria-label": `${name}, slider` });
  const follow = () => (slider.value = input.value.trim() || String(fallback ?? low));
  follow();
  input.addEventListener("input", follow);
  slider.addEventListener("input", () => {
    input.value = slider.value;
    told();
  });
  return slider;
}

function shown(value) {
  if (value === undefined || value === null || (typeof value === "object" && !Object.keys(value).length)) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
