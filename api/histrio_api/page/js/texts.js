// What a model can do that does not chat: how near texts are by their vectors, or documents in the order of their scores.

import { byId, h } from "./dom.js";
import { post } from "./server.js";

const MOST_TEXTS = 12;
const KINDS = {
  embed: {
    title: "Compare texts",
    about: "This model makes vectors of texts, and does not chat. Texts of similar meaning have vectors that point the same way.",
    fields: [{ name: "texts", label: `Texts, one on each line, at most ${MOST_TEXTS}`, rows: 5, value: "A cat sleeps on the sofa.\nA kitten naps on the couch.\nThe train to Oslo leaves at noon." }],
    button: "Compare",
    run: compare,
  },
  score: {
    title: "Rank documents",
    about: "This model scores how well a text fits a query, and does not chat.",
    fields: [
      { name: "query", label: "Query", rows: 1, value: "Where do cats sleep?" },
      { name: "documents", label: `Documents, one on each line, at most ${MOST_TEXTS}`, rows: 5, value: "A cat sleeps on the sofa.\nThe train to Oslo leaves at noon.\nDogs like long walks." },
    ],
    button: "Rank",
    run: rank,
  },
};

export const chats = (model) => !(model.kind in KINDS);

/** Put the form for this model on the screen. */
export function showTexts(model) {
  const { title, about, fields, button, run } = KINDS[model.kind];
  const result = h("div", { class: "texts-result", "aria-live": "polite" });
  const areas = Object.fromEntries(fields.map(({ name, rows, value }) => [name, area(`texts-${name}`, rows, value)]));
  const go = h("button", { type: "submit", class: "button primary" }, button);
  const submit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      result.replaceChildren(...(await run(model, areas)));
    } catch (error) {
      result.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
    }
    go.disabled = false;
  };
  const labelled = fields.map(({ name, label }) => h("div", { class: "field" }, h("label", { class: "field-title", for: `texts-${name}` }, label), areas[name]));
  byId("title").textContent = title;
  byId("texts").replaceChildren(
    h("div", { class: "texts-page" }, h("h2", {}, model.id), h("p", {}, about), h("form", { class: "fields", on: { submit } }, labelled, h("div", { class: "row" }, go)), result),
  );
}

function area(id, rows, value) {
  const made = h("textarea", { id, rows });
  made.value = value;
  return made;
}

/** The lines that are not empty. Throws what a person has to change. */
function lines(area) {
  const found = area.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!found.length || found.length > MOST_TEXTS) throw new Error(`Write 1 to ${MOST_TEXTS} lines.`);
  return found;
}

async function compare(model, { texts }) {
  const input = lines(texts);
  const { data, usage } = await (await post("v1/embeddings", { model: model.id, input, encoding_format: "float" })).json();
  const vectors = data.map((each) => each.embedding);
  const head = h("tr", {}, h("td"), input.map((_, at) => h("th", { scope: "col", class: "right" }, `${at + 1}`)));
  const rows = input.map((text, at) => h("tr", {}, h("th", { scope: "row" }, `${at + 1}. ${text}`), vectors.map((other) => cell(cosine(vectors[at], other)))));
  return [
    h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Similarities" }, h("table", { class: "similarities" }, h("thead", {}, head), h("tbody", {}, rows))),
    h("p", { class: "none" }, `Cosines of ${vectors[0].length.toLocaleString()} numbers each; ${usage.prompt_tokens.toLocaleString()} tokens.`),
  ];
}

async function rank(model, { query, documents }) {
  const body = { model: model.id, query: query.value.trim(), documents: lines(documents) };
  const { results } = await (await post("v1/rerank", body)).json();
  const scores = results.map((each) => each.relevance_score);
  const [most, least] = [Math.max(...scores), Math.min(0, ...scores)];
  return [
    h("ol", { class: "ranking" }, results.map(({ relevance_score: score, document }) => h("li", {}, h("span", {}, document.text), h("span", { class: "score" }, score.toFixed(3)), h("meter", { min: 0, max: 1, value: most > least ? (score - least) / (most - least) : 1, "aria-label": "Share of the highest score" })))),
  ];
}

function cell(value) {
  const made = h("td", { class: "right" }, value.toFixed(2));
  made.style.setProperty("--near", `${Math.round(100 * Math.max(0, value))}%`);
  return made;
}

function cosine(first, second) {
  const dot = (one, other) => one.reduce((sum, value, at) => sum + value * other[at], 0);
  return dot(first, second) / (Math.sqrt(dot(first, first) * dot(second, second)) || 1);
}
