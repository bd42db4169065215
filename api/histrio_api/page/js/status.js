// The model and its service, live: stages, queue, speed, memory, events. Asks every two seconds, and only while seen.

import { byId, h, s } from "./dom.js";
import { getJson } from "./server.js";

const EVERY_MS = 2000;
const MOST_POINTS = 90;

export class StatusView {
  #timer = null;
  #before = null;
  #points = [];
  #root = byId("status");

  start() {
    this.stop();
    this.#look();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #look() {
    const timer = (this.#timer = setTimeout(() => this.#look(), EVERY_MS));
    if (document.hidden) return;
    let found;
    try {
      found = await getJson("v1/status");
    } catch (error) {
      this.#before = null;
      if (this.#timer === timer) this.#root.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
      return;
    }
    const since = this.#before ?? found;
    const seconds = found.time_s - since.time_s;
    const rate = (totals) => (seconds > 0 ? Math.max(0, (totals(found) - totals(since)) / seconds) : 0);
    const speed = rate((each) => each.totals.generated_tokens_total ?? 0);
    if (seconds > 0) this.#points = [...this.#points, speed].slice(-MOST_POINTS);
    if (this.#timer === timer) this.#draw(found, since, seconds, speed);
    this.#before = found;
  }

  #draw(found, since, seconds, speed) {
    const { requests, blocks, model } = found;
    const tokens = blocks.total * blocks.tokens_per_block;
    const tiles = [
      tile("State", found.state, found.detail || `epoch ${found.epoch}`, `state-${found.state}`),
      tile("Running", count(requests.running), `${count(requests.waiting)} waiting · ${count(requests.unfinished)} of ${count(requests.max_unfinished)} taken`),
      tile("Tokens per second", speed.toFixed(1), `${count(found.totals.generated_tokens_total)} since the start`),
      tile("First token", latency(found, since, "time_to_first_token_seconds"), `between tokens ${latency(found, since, "inter_token_seconds")}`),
      tile("Cache", blocks.total ? `${Math.round((100 * blocks.used) / blocks.total)} %` : "–", `${count(blocks.used)} of ${count(blocks.total)} blocks, ${count(tokens)} tokens`),
    ];
    const facts = `${model.architecture}, ${model.num_layers} layers, ${count(model.max_sequence_length)} tokens of context${model.engine ? `, served by ${model.engine}` : ""}`;
    const parts = [
      h("header", { class: "status-head" }, h("h2", {}, model.id), h("p", {}, facts)),
      h("div", { class: "tiles" }, tiles),
      h("section", { class: "card" }, h("h3", {}, "Tokens per second"), chart(this.#points)),
    ];
    if (found.stages.length) parts.push(stageCard(found, since, seconds));
    parts.push(eventCard(found.events));
    this.#root.replaceChildren(...parts);
  }
}

function tile(name, value, about, kind = "") {
  return h("div", { class: `tile ${kind}` }, h("p", { class: "tile-name" }, name), h("p", { class: "tile-value" }, value), h("p", { class: "tile-about" }, about));
}

/** The mean since the last look, or else since the start. */
function latency(found, since, name) {
  const now = found.latencies[name];
  const before = since.latencies[name];
  const [n, sum] = now.count > before.count ? [now.count - before.count, now.sum - before.sum] : [now.count, now.sum];
  return n ? duration(sum / n) : "–";
}

function chart(points) {
  const [width, height] = [600, 90];
  const most = Math.max(...points, 1);
  const across = (index) => (((MOST_POINTS - points.length + index) * width) / (MOST_POINTS - 1)).toFixed(1); // the newest right
  const at = (value, index) => `${across(index)},${(height - 4 - (value / most) * (height - 12)).toFixed(1)}`;
  const line = points.map(at).join(" ");
  const label = `Tokens per second of the last minutes, at most ${most.toFixed(1)}`;
  return s(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    points.length > 1 ? s("polygon", { points: `${across(0)},${height} ${line} ${width},${height}` }) : null,
    points.length > 1 ? s("polyline", { points: line }) : null,
  );
}

/** Where the layers are, as a strip and as a table. */
function stageCard(found, since, seconds) {
  const { num_layers: numLayers } = found.model;
  const strip = found.stages.map((stage) => {
    const part = h("span", { class: "strip-part" }, `${stage.first_layer}–${stage.last_layer - 1}`);
    part.style.flexGrow = Math.max(stage.last_layer - stage.first_layer, numLayers / 12); // for a name to have room
    return part;
  });
  const rows = found.stages.map((stage) => {
    const busy = stage.busy_s - (since.stages.find((each) => each.index === stage.index)?.busy_s ?? stage.busy_s);
    const cells = [
      `${stage.first_layer} to ${stage.last_layer - 1}`,
      [stage.backend, stage.dtype].filter(Boolean).join(", ") || "–",
      stage.device || "–",
      stage.process,
      bytes(stage.param_bytes),
      bytes(stage.block_bytes),
      stage.latency_s ? duration(stage.latency_s) : "–",
      stage.layer_latency_s ? duration(stage.layer_latency_s) : "–",
      seconds > 0 ? `${Math.min(100, Math.round((100 * Math.max(busy, 0)) / seconds))} %` : "–",
    ];
    return h("tr", {}, h("th", { scope: "row" }, String(stage.index)), cells.map((each) => h("td", {}, each)));
  });
  const heads = ["Stage", "Layers", "Backend", "Device", "Process", "Weights", "Blocks", "Step", "Per layer", "Busy"];
  const table = h("table", {}, h("thead", {}, h("tr", {}, heads.map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, rows));
  const frame = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Stages" }, table);
  return h("section", { class: "card" }, h("h3", {}, "Stages"), h("div", { class: "strip", "aria-hidden": "true" }, strip), frame);
}

function eventCard(events) {
  const items = [...events].reverse().map(({ time_s: time, level, text }) => {
    const at = new Date(time * 1000);
    return h("li", { class: level }, h("time", { datetime: at.toISOString() }, at.toLocaleTimeString()), text);
  });
  return h("section", { class: "card" }, h("h3", {}, "Events"), items.length ? h("ol", { class: "events" }, items) : h("p", { class: "none" }, "Nothing has happened yet."));
}

const count = (number) => Math.round(number ?? 0).toLocaleString();

function duration(seconds) {
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms` : `${seconds.toFixed(2)} s`;
}

function bytes(number) {
  if (!number) return "–";
  const power = Math.min(Math.floor(Math.log10(number) / 3), 4);
  return `${(number / 1000 ** power).toPrecision(3)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}
