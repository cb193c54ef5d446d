// Past requests, kept in this browser only: bounded, to be restored, deleted, exported.

import { announce, el, icon, iconButton, plural, store } from "./page.js";

const NAME = "verve.history";

/** Entries kept, and characters of them all. Browsers give a page about five million. */
const MOST_ENTRIES = 60;
const MOST_CHARACTERS = 1_500_000;

/** The list. `onrestore(entry)` gets the entry that was chosen: `{id, time, mode, model, settings, state, title}`. */
export class History {
  #entries = store.get(NAME, []);
  #list = el("ol", { class: "entries" });

  constructor(place, onrestore) {
    this.onrestore = onrestore;
    if (!Array.isArray(this.#entries)) this.#entries = [];
    const exporter = el("button", { type: "button", onclick: () => this.#export() }, icon("down"), el("span", {}, "Export"));
    const clear = el("button", { type: "button", onclick: () => this.#clear() }, icon("bin"), el("span", {}, "Delete all"));
    this.tools = el("div", { class: "actions" }, exporter, clear);
    place.replaceChildren(el("p", { class: "help" }, "Kept in this browser only. The key is not part of it."), this.tools, this.#list);
    this.#render();
  }

  /** Puts an entry in front; one with the same id goes. */
  add(entry) {
    this.#entries = [entry, ...this.#entries.filter(({ id }) => id !== entry.id)].slice(0, MOST_ENTRIES);
    this.#keep();
  }

  #keep() {
    while (this.#entries.length > 1 && JSON.stringify(this.#entries).length > MOST_CHARACTERS) this.#entries.pop();
    // Others of this site's pages may have filled the room.
    while (!store.set(NAME, this.#entries) && this.#entries.length > 1) this.#entries.pop();
    this.#render();
  }

  #render() {
    this.tools.hidden = this.#entries.length === 0;
    const empty = el("li", { class: "empty" }, "Nothing yet.");
    this.#list.replaceChildren(...(this.#entries.length > 0 ? this.#entries.map((entry) => this.#item(entry)) : [empty]));
  }

  #item(entry) {
    const { id, time, mode, model, title } = entry;
    const when = new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    const restore = el(
      "button",
      { type: "button", class: "entry", onclick: () => this.onrestore(structuredClone(entry)) },
      el("span", { class: "title" }, title),
      el("span", { class: "note" }, `${mode === "chat" ? "Chat" : "Completion"}, ${model}, ${when}`),
    );
    const remove = iconButton("bin", `Delete “${title.slice(0, 40)}”`, () => {
      this.#entries = this.#entries.filter((other) => other.id !== id);
      this.#keep();
      announce("Deleted.");
    });
    return el("li", {}, restore, remove);
  }

  #clear() {
    announce(`${plural(this.#entries.length, "entry", "entries")} deleted.`);
    this.#entries = [];
    this.#keep();
  }

  #export() {
    const blob = new Blob([JSON.stringify(this.#entries, null, 2)], { type: "application/json" });
    const link = el("a", { href: URL.createObjectURL(blob), download: "verve-history.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
