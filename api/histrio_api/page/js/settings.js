// The settings of a conversation: system prompt, presets, every field of requests that the server honours, tools, form.

import { fieldView } from "./fields.js";
import { freshId, h } from "./dom.js";
import { parsed } from "./request.js";

const FIRST = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "stop"];
/** What most people look for; the rest is folded. */

/** All of it, for these `settings`, which are changed in place; `changed()` is told. */
export function settingsView(settings, described, changed) {
  const root = h("div", { class: "settings-form" });
  const draw = () => root.replaceChildren(systemPart(), presetPart(), ...fieldParts(), formPart(), toolPart());

  function systemPart() {
    return textPart("System prompt", settings.system, "How the model should behave", 4, (text) => (settings.system = text));
  }

  function presetPart() {
    const names = { "": "model’s own", ...Object.fromEntries(Object.keys(described.presets).map((name) => [name, name])) };
    const buttons = Object.entries(names).map(([name, label]) => {
      const isOn = isPreset(settings.fields, described.presets[name] ?? {}, described);
      const choose = () => {
        for (const field of described.sampling_fields) delete settings.fields[field];
        Object.assign(settings.fields, described.presets[name] ?? {});
        changed();
        draw();
        root.querySelector(`.presets [data-preset="${name}"]`)?.focus();
      };
      return h("button", { type: "button", class: "chip", "data-preset": name, "aria-pressed": String(isOn), on: { click: choose } }, label);
    });
    return h("fieldset", { class: "presets" }, h("legend", {}, "Preset"), buttons);
  }

  function field(name) {
    const own = described.model.default_sampling[name];
    const keep = (value) => {
      if (value === undefined) delete settings.fields[name];
      else settings.fields[name] = value;
      changed();
      for (const chip of root.querySelectorAll(".chip")) {
        const preset = described.presets[chip.dataset.preset] ?? {};
        chip.setAttribute("aria-pressed", String(isPreset(settings.fields, preset, described)));
      }
    };
    return fieldView(name, described.fields[name], settings.fields[name], keep, own === undefined ? undefined : String(own));
  }

  function fieldParts() {
    const first = FIRST.filter((name) => name in described.fields);
    const rest = Object.keys(described.fields).filter((name) => !first.includes(name)).sort();
    const isUsed = rest.some((name) => name in settings.fields);
    const more = h("details", { class: "more", open: isUsed }, h("summary", {}, `All other fields (${rest.length})`), rest.map(field));
    return [h("div", { class: "fields" }, first.map(field)), more];
  }

  function formPart() {
    if (!described.model.takes_forms) return "";
    const id = freshId("form");
    const kinds = { text: "any text", json_object: "a JSON object", json_schema: "JSON of a schema" };
    const options = Object.entries(kinds).map(([value, label]) => h("option", { value, selected: settings.form === value }, label));
    const select = h("select", { id }, options);
    const schema = jsonPart("JSON schema", settings.schema, '{"type": "object", "properties": {}}', 6, (text) => (settings.schema = text));
    schema.hidden = settings.form !== "json_schema";
    select.addEventListener("change", () => {
      settings.form = select.value;
      schema.hidden = settings.form !== "json_schema";
      changed();
    });
    return h("div", { class: "field" }, h("label", { for: id, class: "field-title" }, "Form of the answer"), select, schema);
  }

  function toolPart() {
    if (!described.model.takes_tools) return "";
    const id = freshId("choice");
    const choices = described.model.takes_forms ? ["auto", "none", "required"] : ["auto", "none"];
    const select = h("select", { id }, choices.map((value) => h("option", { value, selected: settings.toolChoice === value }, value)));
    select.addEventListener("change", () => {
      settings.toolChoice = select.value;
      changed();
    });
    const example = '[{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]';
    const tools = jsonPart("Tools", settings.tools, example, 5, (text) => (settings.tools = text));
    return h("div", { class: "field" }, tools, h("label", { for: id, class: "field-name" }, "tool_choice"), select);
  }

  function textPart(title, value, placeholder, rows, keep, attributes = {}) {
    const id = freshId("text");
    const area = h("textarea", { id, rows, placeholder, ...attributes });
    area.value = value;
    area.addEventListener("input", () => {
      keep(area.value);
      changed();
    });
    return h("div", { class: "field" }, h("label", { for: id, class: "field-title" }, title), area);
  }

  /** A text that has to be JSON; it says so while it is none. */
  function jsonPart(title, value, placeholder, rows, keep) {
    const part = textPart(title, value, placeholder, rows, keep, { spellcheck: "false", class: "mono" });
    const error = h("p", { class: "field-error", role: "alert", hidden: true });
    const area = part.querySelector("textarea");
    area.addEventListener("input", () => {
      try {
        parsed(area.value, title);
        error.hidden = true;
      } catch (problem) {
        error.textContent = problem.message;
        error.hidden = false;
      }
    });
    part.append(error);
    return part;
  }

  draw();
  return root;
}

/** Whether the sampling fields are exactly these. */
function isPreset(fields, preset, { sampling_fields: names }) {
  return names.every((name) => JSON.stringify(fields[name]) === JSON.stringify(preset[name]));
}
