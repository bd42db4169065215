// Whether the model answers now; while it does not, how far it is. Looks often while it loads, seldom otherwise.

import { byId } from "./dom.js";
import { health } from "./server.js";

const SOON_MS = 700;
const SELDOM_MS = 10_000;
const STATES = {
  loading: "The model is loading",
  recovering: "The engine is being restarted; answers go on by themselves",
  draining: "The server is shutting down",
  failed: "The engine failed and was not restarted; the server’s log has the reason",
};

/** Watches the server as long as the page is open; `becameReady()` is called each time it begins to answer. */
export class Health {
  #waiting = new Set();
  #timer = null;

  constructor(becameReady) {
    this.becameReady = becameReady;
    this.isReady = null;
  }

  /** Look now, and from then on. */
  async look() {
    clearTimeout(this.#timer);
    const found = (await health()) ?? { status: "unreachable" };
    const isReady = found.status === "ready";
    const cameBack = isReady && this.isReady === false;
    this.isReady = isReady;
    show(found);
    if (isReady) this.#release();
    if (cameBack) this.becameReady();
    this.#timer = setTimeout(() => this.look(), isReady ? SELDOM_MS : SOON_MS);
  }

  /** Until requests are answered. Throws what was given where they will not be, and where `signal` says so. */
  async untilReady(signal, error) {
    await this.look();
    if (this.isReady) {
      await new Promise((resolve) => setTimeout(resolve, SOON_MS));
      signal.throwIfAborted();
      return;
    }
    if (["failed", "draining"].includes(byId("banner").dataset.state)) throw error;
    await new Promise((resolve, reject) => {
      this.#waiting.add(resolve);
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  }

  #release() {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }
}

function show({ status, detail, progress }) {
  const banner = byId("banner");
  banner.hidden = status === "ready";
  banner.dataset.state = status;
  const state = STATES[status] ?? "The server cannot be reached; trying again";
  byId("banner-text").textContent = detail && status === "loading" ? `${state}: ${detail}` : state;
  const bar = byId("banner-progress");
  bar.hidden = status !== "loading";
  bar.value = progress ?? 0;
}
