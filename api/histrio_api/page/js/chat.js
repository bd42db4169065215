// The conversation on the screen: what is sent, what comes, and what is done with messages.

import { answer } from "./answering.js";
import { openCalls } from "./conversation.js";
import { byId, h } from "./dom.js";
import { messageView } from "./messages.js";
import { requestOf } from "./request.js";

const REST_RATIO = 4;
/** Showing takes at most about a fifth of the time, however long the answer has become. */
const NEAR_PX = 80;
/** A reader so near to the end of the log stays at the end. */

export class Chat {
  /** `server` has `described()`, the settings of the server, and `untilReady(signal, error)`; `changed` and `save` are told. */
  constructor({ described, untilReady, changed, save }) {
    this.described = described;
    this.untilReady = untilReady;
    this.changed = changed;
    this.save = save;
    this.log = byId("log");
    this.running = null;
    this.conversation = null;
    this.views = new Map();
  }

  get isRunning() {
    return this.running !== null;
  }

  /** Put another conversation on the screen; an answer that is still coming is stopped. */
  open(conversation) {
    this.stop();
    this.conversation = conversation;
    for (const message of conversation.messages) delete message.running; // of a page that was closed meanwhile
    this.show();
    this.log.scrollTop = this.log.scrollHeight;
  }

  stop() {
    this.running?.abort();
  }

  send(text) {
    this.conversation.messages.push({ role: "user", content: text });
    return this.answer();
  }

  /** Everything again from the conversation, as after a message was taken away. */
  show() {
    const { messages } = this.conversation;
    this.views = new Map(messages.map((message) => [message, this.#view(message)]));
    const elements = [...this.views.values()].map((view) => view.element);
    this.log.replaceChildren(...(elements.length ? elements : [this.#welcome()]));
    this.changed();
  }

  /** Have the model say what comes next. */
  async answer() {
    if (this.isRunning) return;
    const { conversation, log } = this;
    const message = { role: "assistant", content: "" };
    const running = new AbortController();
    this.running = running;
    let request;
    try {
      request = requestOf(conversation, this.described());
    } catch (error) {
      message.error = error.message;
    }
    conversation.messages.push(message);
    this.show();
    const view = this.views.get(message);
    log.scrollTop = log.scrollHeight;
    if (request) {
      await answer(request, message, {
        signal: running.signal,
        show: throttled(() => this.#keepEnd(view.update)),
        save: () => this.save(conversation),
        untilReady: this.untilReady,
      });
    }
    if (this.running === running) this.running = null;
    await this.save(conversation);
    if (this.conversation === conversation) {
      this.#keepEnd(view.update);
      this.changed();
    }
  }

  #view(message) {
    const { conversation } = this;
    const at = () => conversation.messages.indexOf(message);
    return messageView(message, {
      isOpen: (call) => openCalls(conversation).includes(call),
      regenerate: () => this.#cut(at()) && this.answer(),
      remove: () => this.#cut(at()) && this.save(conversation),
      answerCall: (call, text) => {
        conversation.messages.push({ role: "tool", tool_call_id: call.id, content: text });
        this.show();
        return openCalls(conversation).length ? this.save(conversation) : this.answer();
      },
      edit: (text) => {
        message.content = text;
        if (message.role === "assistant") {
          this.show();
          return this.save(conversation);
        }
        return this.#cut(at() + 1) && this.answer();
      },
    });
  }

  /** Take away this message and all after it; false while an answer comes. */
  #cut(at) {
    if (this.isRunning || at < 0) return false;
    this.conversation.messages.length = at;
    this.show();
    return true;
  }

  #keepEnd(work) {
    const { log } = this;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
    work();
    if (isAtEnd) log.scrollTop = log.scrollHeight;
    this.changed();
  }

  #welcome() {
    const { model } = this.described();
    const about = model.has_chat_template
      ? "Ask it something. Conversations stay in this browser."
      : "This model has no chat template: what you write is continued as it stands.";
    return h("div", { class: "welcome" }, h("img", { src: "ui/icon.svg", alt: "", width: "56", height: "56" }), h("h2", {}, model.id), h("p", {}, about));
  }
}

/** At most once per frame, and never for more than its share of the time; what is left out follows. */
function throttled(work) {
  let due = 0;
  let timer = null;
  const run = () => {
    timer = null;
    const began = performance.now();
    work();
    due = performance.now() + REST_RATIO * (performance.now() - began);
  };
  return () => {
    timer ??= setTimeout(() => requestAnimationFrame(run), Math.max(due - performance.now(), 0));
  };
}
