// The page put together: what is on the screen, and what keys and buttons do.

import { Chat } from "./chat.js";
import { newConversation, titleOf } from "./conversation.js";
import { askForKey, confirmed, share } from "./dialogs.js";
import { byId, h, notify } from "./dom.js";
import { asJson, asMarkdown, fileName, save } from "./export.js";
import { Health } from "./health.js";
import { requestOf } from "./request.js";
import { getJson, key, keyEvents } from "./server.js";
import { settingsView } from "./settings.js";
import { showConversations } from "./sidebar.js";
import { asCurl, asPython } from "./snippets.js";
import { StatusView } from "./status.js";
import { openStore, StoreFull } from "./store.js";
import { chats, showTexts } from "./texts.js";

const NARROW = window.matchMedia("(max-width: 820px)");

const store = await openStore();
let described = null;
const health = new Health(describe);
const statusView = new StatusView();
const chat = new Chat({ described: () => described, untilReady: (...given) => health.untilReady(...given), changed, save: keep });
const input = byId("input");

// --- conversations

async function keep(conversation) {
  conversation.updated = Date.now();
  try {
    await store.put(conversation);
  } catch (error) {
    if (!(error instanceof StoreFull)) throw error;
    notify(error.message);
  }
  list();
}

function list() {
  showConversations(store.list(), chat.conversation, {
    open: (each) => {
      show(each);
      if (NARROW.matches) toggleSidebar(false);
    },
    rename: (each, title) => {
      each.title = title;
      return store.put(each).then(list, (error) => notify(error.message)).then(changed);
    },
    remove,
  });
}

async function remove(conversation) {
  const text = `“${titleOf(conversation)}” and its messages will be gone from this browser.`;
  if (!(await confirmed("Delete this conversation?", text, "Delete"))) return;
  await store.remove(conversation.id);
  if (chat.conversation === conversation) show(newConversation(conversation.settings));
  else list();
}

function show(conversation) {
  chat.open(conversation);
  showSettings();
  list();
}

function showSettings() {
  byId("settings-body").replaceChildren(settingsView(chat.conversation.settings, described, settingsChanged));
  changed();
}

function settingsChanged() {
  if (chat.conversation.messages.length) keep(chat.conversation);
  changed();
}

/** Title, context and buttons as they are now. */
function changed() {
  const { conversation, isRunning } = chat;
  if (!conversation) return;
  byId("title").textContent = titleOf(conversation);
  document.title = conversation.messages.length ? `${titleOf(conversation)} – histrio` : "histrio";
  byId("stop").hidden = !isRunning;
  byId("send").hidden = isRunning;
  const usage = conversation.messages.findLast((message) => message.usage)?.usage;
  const most = described?.model.max_sequence_length;
  const used = usage ? usage.prompt_tokens + usage.completion_tokens : 0;
  byId("context").replaceChildren(
    ...(most ? [h("span", {}, `Context ${used.toLocaleString()} of ${most.toLocaleString()}`), h("meter", { min: 0, max: most, high: most * 0.85, value: Math.min(used, most), "aria-label": "Context used" })] : []),
  );
}

// --- the server

async function describe() {
  try {
    described = await getJson("ui/settings.json");
  } catch (error) {
    byId("log").replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
    return;
  }
  byId("model").textContent = described.model.id;
  showKind();
  if (!chats(described.model)) showTexts(described.model);
  else if (!chat.conversation) show(newConversation());
  else showSettings();
}

/** Of a model that does not chat, nothing of chats is shown. */
function showKind() {
  const isChat = chats(described.model);
  for (const id of ["new", "share", "open-settings", "export-all", "search-box", "saved"]) byId(id).hidden = !isChat;
  byId("to-chat").textContent = isChat ? "Chat" : "Texts";
  view();
}

keyEvents.addEventListener("needed", async () => {
  if (!byId("dialog").open && (await askForKey())) describe();
});

// --- writing

function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (!text || chat.isRunning || !described) return;
  input.value = "";
  fit();
  chat.send(text);
});
input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("stop").addEventListener("click", () => {
  chat.stop();
  input.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || byId("dialog").open) return;
  if (chat.isRunning) chat.stop();
  else if (!byId("settings").hidden) toggleSettings(false);
  else if (NARROW.matches) toggleSidebar(false);
});

// --- around it

function toggleSidebar(isOpen) {
  document.body.dataset.sidebar = isOpen ? "open" : "closed";
  byId(isOpen ? "close-sidebar" : "open-sidebar").focus();
}

function toggleSettings(isOpen) {
  byId("settings").hidden = !isOpen;
  byId("open-settings").setAttribute("aria-expanded", String(isOpen));
  byId(isOpen ? "close-settings" : "open-settings").focus();
}

function view() {
  const isStatus = location.hash === "#status";
  const isChat = !described || chats(described.model);
  byId("chat").hidden = isStatus || !isChat;
  byId("texts").hidden = isStatus || isChat;
  byId("status").hidden = !isStatus;
  for (const [id, isOn] of [["to-chat", !isStatus], ["to-status", isStatus]]) {
    byId(id).toggleAttribute("aria-current", false);
    if (isOn) byId(id).setAttribute("aria-current", "page");
  }
  if (isStatus) statusView.start();
  else statusView.stop();
}

function themeWord(theme) {
  byId("theme").querySelector("span").textContent = `Theme: ${theme}`;
}

byId("new").addEventListener("click", () => {
  show(newConversation(chat.conversation?.settings));
  if (NARROW.matches) toggleSidebar(false);
  location.hash = "#chat";
  input.focus();
});
byId("search").addEventListener("input", list);
byId("open-sidebar").addEventListener("click", () => toggleSidebar(true));
byId("close-sidebar").addEventListener("click", () => toggleSidebar(false));
byId("open-settings").addEventListener("click", () => toggleSettings(byId("settings").hidden));
byId("close-settings").addEventListener("click", () => toggleSettings(false));
byId("theme").addEventListener("click", () => themeWord(window.histrioTheme.next()));
byId("key").addEventListener("click", async () => {
  if (await askForKey()) describe();
});
byId("export-all").addEventListener("click", () => save("histrio-conversations.json", "application/json", asJson(store.list())));
byId("share").addEventListener("click", () => {
  const { conversation } = chat;
  let request;
  try {
    request = requestOf(conversation, described);
  } catch (error) {
    notify(error.message);
    return;
  }
  share({
    curl: asCurl(request, Boolean(key())),
    python: asPython(request, Boolean(key())),
    exportJson: () => save(fileName(conversation, "json"), "application/json", asJson([conversation])),
    exportMarkdown: () => save(fileName(conversation, "md"), "text/markdown", asMarkdown(conversation)),
  });
});
window.addEventListener("hashchange", view);

themeWord(window.histrioTheme.chosen());
view();
await describe();
await health.look();
if (!store.isKept) notify("This browser keeps nothing for this page: conversations end with the tab.");
input.focus();
