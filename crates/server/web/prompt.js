// The exact prompt: what the model reads, with the template's marks, and each token with its id.

import { request } from "./api.js";
import { copy, el, icon, plural } from "./page.js";
import { visible } from "./tokens.js";

/** Tokens shown at most: more make the page slow and nobody reads them. */
const MOST = 4000;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The panel. `ask()` gives the present `{mode, model, body}`. */
export class PromptPanel {
  #open = false;
  #timer = 0;
  #asked = null;
  #ids = null;
  #text = "";
  #read = null;
  #tools;
  #body = el("div", { class: "exact" });
  #status = el("p", { class: "note", "aria-live": "polite" });
  #last = el("p", { class: "note" });

  constructor(place, ask) {
    this.ask = ask;
    const intro = el("p", { class: "help" }, "What the model reads: the text with the template's marks, token by token, with the ids below.");
    const button = (name, text) => el("button", { type: "button", onclick: (event) => copy(text(), event.currentTarget) }, icon("copy"), el("span", { class: "text" }, name));
    this.#tools = el("div", { class: "actions", hidden: true }, button("Copy text", () => this.#text), button("Copy ids", () => JSON.stringify(this.#ids)));
    place.replaceChildren(intro, this.#status, this.#body, this.#tools, this.#last);
  }

  /** While the panel is seen it follows the prompt. */
  set open(open) {
    this.#open = open;
    this.changed(0);
  }

  changed(wait = 400) {
    clearTimeout(this.#timer);
    if (this.#open) this.#timer = setTimeout(() => this.#refresh(), wait);
  }

  /** The ids that the server says it has read for the last request. */
  read(ids) {
    this.#read = ids;
    this.#compare();
  }

  async #refresh() {
    this.#asked?.abort();
    const asked = (this.#asked = new AbortController());
    try {
      const tokens = await exact(this.ask(), asked.signal);
      this.#ids = tokens.map(({ id }) => id);
      this.#text = decoder.decode(Uint8Array.from(tokens.flatMap(({ bytes }) => [...bytes])));
      this.#tools.hidden = tokens.length === 0;
      this.#status.textContent = plural(tokens.length, "token");
      this.#status.classList.remove("bad");
      this.#body.replaceChildren(...tokens.slice(0, MOST).flatMap(chip));
      if (tokens.length > MOST) this.#body.append(el("p", { class: "note" }, `and ${plural(tokens.length - MOST, "token")} more`));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#ids = null;
      this.#tools.hidden = true;
      this.#body.replaceChildren();
      this.#status.textContent = error.message;
      this.#status.classList.add("bad");
    }
    this.#compare();
  }

  #compare() {
    if (!this.#read || !this.#ids) this.#last.textContent = "";
    else if (this.#read.length === this.#ids.length && this.#read.every((id, at) => id === this.#ids[at])) this.#last.textContent = "The last request was read as exactly these tokens.";
    else this.#last.textContent = `The last request was read as ${plural(this.#read.length, "other token")}: ${this.#read.slice(0, 400).join(" ")}${this.#read.length > 400 ? " …" : ""}`;
  }
}

/** The tokens of what would be sent, as `{id, bytes}`. */
async function exact({ mode, model, body }, signal) {
  const what = mode === "completion" ? { prompt: body.prompt, add_special_tokens: true } : { messages: body.messages, add_generation_prompt: true };
  const { tokens } = await request("POST", "/tokenize", { model, ...what, with_pieces: true }, signal);
  return tokens.map(({ id, piece }) => ({ id, bytes: typeof piece === "string" ? encoder.encode(piece) : Uint8Array.from(piece) }));
}

function chip({ id, bytes }) {
  const text = decoder.decode(bytes);
  const special = /^<.*>$|^\[[A-Z_]+\]$/.test(text) && text.length > 2;
  const node = el("span", { class: special ? "chip-token special" : "chip-token" }, el("code", {}, visible(text)), el("span", { class: "id" }, String(id)));
  return text.includes("\n") ? [node, el("span", { class: "turn" })] : node;
}
