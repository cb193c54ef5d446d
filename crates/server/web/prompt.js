// The exact prompt: what the model reads, with the template's marks, and each token with its id.

import { request } from "./api.js";
import { el, plural } from "./page.js";
import { visible } from "./tokens.js";

/** Tokens shown at most: more make the page slow and nobody reads them. */
const MOST = 4000;

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The panel. `ask()` gives the present `{mode, model, body}`. */
export class PromptPanel {
  #open = false;
  #timer = 0;
  #asked = null;
  #ids = null;
  #read = null;
  #body = el("div", { class: "exact" });
  #status = el("p", { class: "note", "aria-live": "polite" });
  #last = el("p", { class: "note" });

  constructor(place, ask) {
    this.ask = ask;
    const intro = el("p", { class: "help" }, "What the model reads: the text with the template's marks, token by token, with the ids below.");
    place.replaceChildren(intro, this.#status, this.#body, this.#last);
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
      const { tokens, text } = await exact(this.ask(), asked.signal);
      this.#ids = tokens.map(({ id }) => id);
      this.#status.textContent = plural(tokens.length, "token");
      this.#status.classList.remove("bad");
      this.#body.replaceChildren(...(tokens.some(({ piece }) => piece !== null) ? tokens.slice(0, MOST).flatMap(chip) : [el("pre", {}, text), el("pre", {}, this.#ids.slice(0, MOST).join(" "))]));
      if (tokens.length > MOST) this.#body.append(el("p", { class: "note" }, `and ${plural(tokens.length - MOST, "token")} more`));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#ids = null;
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

/** Text and tokens of what would be sent. */
async function exact({ mode, model, body }, signal) {
  if (mode === "completion") {
    const { tokens } = await request("POST", "/tokenize", { model, prompt: body.prompt, add_special_tokens: true, with_pieces: true }, signal);
    return { text: body.prompt, tokens: tokens.map(piece) };
  }
  const { prompt, tokens: ids } = await request("POST", "/apply-template", { model, messages: body.messages, add_generation_prompt: true }, signal);
  const { tokens } = await request("POST", "/tokenize", { model, prompt, add_special_tokens: false, with_pieces: true }, signal);
  const pieces = tokens.map(piece);
  // The pieces are only shown if they are the tokens that will be read.
  const same = pieces.length === ids.length && pieces.every(({ id }, at) => id === ids[at]);
  return { text: prompt, tokens: same ? pieces : ids.map((id) => ({ id, piece: null })) };
}

/** A piece is a string, or bytes where it is no whole text. */
function piece(token) {
  if (typeof token === "number") return { id: token, piece: null };
  const text = Array.isArray(token.piece) ? decoder.decode(Uint8Array.from(token.piece)) : token.piece;
  return { id: token.id, piece: text };
}

function chip({ id, piece: text }) {
  const special = /^<.*>$|^\[[A-Z_]+\]$/.test(text) && text.length > 2;
  const node = el("span", { class: special ? "chip-token special" : "chip-token" }, el("code", {}, visible(text)), el("span", { class: "id" }, String(id)));
  return text.includes("\n") ? [node, el("span", { class: "turn" })] : node;
}
