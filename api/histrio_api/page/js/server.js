// Requests to the server that the page came from, with the API key if there is one.

const BASE = new URL(".", document.baseURI);
const KEY = "histrio.key";

/** What the server answered in place of what was asked for. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Listen for `needed`: the server asked for a key, or refused the one that it got. */
export const keyEvents = new EventTarget();

export const address = () => BASE.href.replace(/\/$/, "");

export const key = () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";

/** Use this key from now on: until the tab is closed, or, if `isKept`, in this browser. */
export function setKey(value, isKept) {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  if (value) (isKept ? localStorage : sessionStorage).setItem(KEY, value);
}

/** JSON from a URL below the page's. Throws `ServerError`. */
export async function getJson(path, signal) {
  const response = await send(path, { signal });
  if (!response.ok) throw await errorOf(response);
  return response.json();
}

/** State and progress, whether or not requests are generated now; null where the server cannot be reached. */
export async function health() {
  try {
    return await (await send("health", {})).json();
  } catch {
    return null;
  }
}

/** The response to a request of JSON, once its head is there. Throws `ServerError`. */
export async function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const response = await send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function send(path, options) {
  const headers = { ...options.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  try {
    return await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
}

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  if (response.status === 401) keyEvents.dispatchEvent(new Event("needed"));
  return new ServerError(body?.error?.message ?? `The server answered with status ${response.status}.`, response.status);
}
