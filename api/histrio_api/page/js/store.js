// Conversations, kept in this browser alone. IndexedDB has them; where it is not allowed they live as long as the page.

const NAME = "histrio";
const TABLE = "conversations";
export const MAX_CONVERSATIONS = 500;

/** The browser has no room left, or there are as many conversations as are kept. */
export class StoreFull extends Error {}

/** Opens what was kept. Nothing fails here: without a database `isKept` is false. */
export async function openStore() {
  try {
    const database = await opened(NAME);
    return new Store(database, await asked(database.transaction(TABLE).objectStore(TABLE).getAll()));
  } catch {
    return new Store(null, []);
  }
}

class Store {
  #database;
  #all;

  constructor(database, all) {
    this.#database = database;
    this.#all = new Map(all.map((each) => [each.id, each]));
  }

  get isKept() {
    return this.#database !== null;
  }

  /** All of them, those that changed last first. */
  list() {
    return [...this.#all.values()].sort((a, b) => b.updated - a.updated);
  }

  /** Keep the conversation as it is now. Throws `StoreFull`. */
  async put(conversation) {
    if (!this.#all.has(conversation.id) && this.#all.size >= MAX_CONVERSATIONS) {
      throw new StoreFull(`${MAX_CONVERSATIONS} conversations are kept; delete some to keep this one.`);
    }
    this.#all.set(conversation.id, conversation);
    if (this.#database) await this.#write((table) => table.put(structuredClone(conversation)));
  }

  async remove(id) {
    this.#all.delete(id);
    if (this.#database) await this.#write((table) => table.delete(id));
  }

  async #write(work) {
    const transaction = this.#database.transaction(TABLE, "readwrite");
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
    try {
      work(transaction.objectStore(TABLE));
      await ended;
    } catch (error) {
      if (error?.name !== "QuotaExceededError") throw error;
      throw new StoreFull("The browser has no room for more; export and delete conversations to keep this one.");
    }
  }
}

function opened(name) {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  return asked(request);
}

function asked(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
