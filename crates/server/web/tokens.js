// Answers shown token by token: which token was how likely, and what else could have stood there.

import { byId, el, percent } from "./page.js";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Alternatives asked for with each token; the most that completions give. */
export const ALTERNATIVES = 5;

/**
 * The tokens of a choice (of a whole answer or of one chunk), the same for completions and chat:
 * `{text, bytes, logprob, id, top: [{text, logprob}]}`.
 */
export function tokensOf(choice) {
  const { logprobs } = choice;
  if (!logprobs) return [];
  const ids = choice.token_ids ?? [];
  const list = logprobs.content
    ? logprobs.content.map(({ token, bytes, logprob, top_logprobs: top }) => ({
        text: token,
        bytes: bytes ? Uint8Array.from(bytes) : bytesOf(token),
        logprob,
        top: (top ?? []).map((other) => ({ text: other.token, logprob: other.logprob })),
      }))
    : (logprobs.tokens ?? []).map((token, at) => ({
        text: token,
        bytes: bytesOf(token),
        logprob: logprobs.token_logprobs[at],
        top: Object.entries(logprobs.top_logprobs?.[at] ?? {}).map(([text, logprob]) => ({ text, logprob })),
      }));
  for (const token of list) token.top.sort((a, b) => b.logprob - a.logprob);
  if (ids.length === list.length) list.forEach((token, at) => (token.id = ids[at]));
  return list;
}

/** A token that is no whole text comes as `bytes:\xe2\x82`. */
function bytesOf(token) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/i.test(token)) return encoder.encode(token);
  return Uint8Array.from(token.slice(6).match(/[0-9a-f]{2}/gi), (pair) => parseInt(pair, 16));
}

/** Spaces and line ends made visible. */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(empty)";

/** What each span of an answer stands for. */
const shown = new WeakMap();

/** One answer that grows. Its `node` holds a span for each token, or plain text where no tokens came. */
export class Answer {
  text = "";
  /** Text that has no span yet, and tokens that have no text yet. */
  #rest = "";
  #queue = [];
  #loose = false;
  #tail = document.createTextNode("");

  constructor(label) {
    this.node = el("div", { class: "answer reading", role: "group", "aria-label": label }, this.#tail);
  }

  /** Text, and the tokens that have become known; either may be ahead of the other. */
  append(text, tokens = []) {
    this.text += text;
    this.#rest += text;
    this.#queue.push(...tokens);
    this.#place();
    this.#tail.data = this.#rest;
  }

  /** No more will come: what is left of the tokens is a token cut by a stop string, or one that ends the text. */
  finish() {
    const cut = this.#rest !== "" && decoded(this.#queue).startsWith(this.#rest);
    if (!this.#loose && this.#queue.length > 0 && (cut || this.#rest === "")) this.#emit(this.#queue.length, this.#rest);
    this.#tail.data = this.#rest;
  }

  /** Makes spans of tokens as soon as their text is there. Tokens that share a character share a span. */
  #place() {
    while (!this.#loose) {
      const n = wholeTokens(this.#queue);
      if (n === 0) return;
      const text = decoded(this.#queue.slice(0, n));
      const [first] = this.#queue;
      if (this.#rest.startsWith(text)) this.#emit(n, text);
      else if (text.startsWith(this.#rest)) return;
      // The first token of some vocabularies has a space in front that the text has not.
      else if (this.node.childElementCount === 0 && first.bytes[0] === 32 && first.bytes.length > 1) first.bytes = first.bytes.subarray(1);
      else this.#loose = true;
    }
  }

  #emit(n, text) {
    this.node.insertBefore(this.#span(this.#queue.splice(0, n), text), this.#tail);
    this.#rest = this.#rest.slice(text.length);
  }

  #span(tokens, text) {
    const least = Math.min(...tokens.map((token) => token.logprob ?? 0));
    const first = this.node.childElementCount === 0;
    const span = el("span", { class: `tok p${level(least)}`, tabindex: first ? 0 : -1, "aria-describedby": "tip" }, text);
    if (text === "") {
      span.classList.add("end");
      span.textContent = visible(tokens.map((token) => token.text).join(""));
    }
    shown.set(span, tokens);
    return span;
  }
}

/** The text of tokens. What is no UTF-8 becomes U+FFFD, as it does in the server. */
const decoded = (tokens) => decoder.decode(Uint8Array.from(tokens.flatMap(({ bytes }) => [...bytes])));

/** How many tokens in front make up whole characters, at least one; 0 when more tokens must come first. */
function wholeTokens(tokens) {
  const open = new TextDecoder("utf-8", { ignoreBOM: true });
  let text = "";
  for (let n = 0; n < tokens.length; n++) {
    text += open.decode(tokens[n].bytes, { stream: true });
    if (text !== "" && text === decoded(tokens.slice(0, n + 1))) return n + 1;
  }
  return 0;
}

/** From 0, as good as sure, to 5, a surprise. */
function level(logprob) {
  const bounds = [0.9, 0.6, 0.3, 0.1, 0.02];
  const p = Math.exp(logprob);
  const at = bounds.findIndex((bound) => p >= bound);
  return at < 0 ? bounds.length : at;
}

/** Explains the tints. */
export const legend = () =>
  el("p", { class: "legend" }, "Tint: ", ...["≥ 90 %", "60", "30", "10", "2", "< 2 %"].map((text, at) => el("span", { class: `p${at}` }, text)));

/** Shows what is known of the token under the pointer or the focus; arrow keys go from token to token. */
export function watchTokens() {
  const tip = byId("tip");
  let over = null;
  const show = (span) => {
    if (span === over) return;
    over?.classList.remove("chosen");
    over = span;
    tip.hidden = !span;
    if (!span) return;
    span.classList.add("chosen");
    tip.replaceChildren(...shown.get(span).map(explain), el("p", { class: "note" }, "The model's own probabilities, before temperature and filters."));
    place(tip, span);
  };
  const focused = () => document.activeElement?.closest?.(".tok");
  const of = (event) => {
    const span = event.target.closest?.(".tok");
    return span && shown.has(span) ? span : null;
  };
  document.addEventListener("pointerover", (event) => show(of(event) ?? focused() ?? null));
  document.addEventListener("focusin", (event) => show(of(event)));
  document.addEventListener("focusout", (event) => over === of(event) && show(null));
  document.addEventListener("scroll", () => over && place(tip, over), { capture: true, passive: true });
  document.addEventListener("pointerdown", (event) => of(event) && setTimeout(() => of(event).focus({ preventScroll: true })));
  document.addEventListener("keydown", (event) => {
    const span = of(event);
    if (!span) return;
    if (event.key === "Escape" && !tip.hidden) {
      event.stopImmediatePropagation();
      return show(null);
    }
    const to = target(span, event.key);
    if (!to) return;
    event.preventDefault();
    span.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
}

function target(span, keyName) {
  const all = [...span.parentNode.querySelectorAll(".tok")];
  switch (keyName) {
    case "ArrowRight":
      return all[all.indexOf(span) + 1];
    case "ArrowLeft":
      return all[all.indexOf(span) - 1];
    case "Home":
      return all[0];
    case "End":
      return all.at(-1);
    case "ArrowDown":
      return inNextLine(span, all.slice(all.indexOf(span) + 1), 1);
    case "ArrowUp":
      return inNextLine(span, all.slice(0, all.indexOf(span)).reverse(), -1);
    default:
      return undefined;
  }
}

/** The token of the next line down (1) or up (-1) that is nearest from side to side. */
function inNextLine(span, others, direction) {
  const from = span.getClientRects()[0];
  let best;
  let line;
  for (const other of others) {
    const to = other.getClientRects()[0];
    if (!to || (to.top - from.top) * direction < from.height / 2) continue;
    line ??= to.top;
    if (Math.abs(to.top - line) > from.height / 2) break;
    const away = Math.abs(to.left - from.left);
    if (!best || away < best.away) best = { other, away };
  }
  return best?.other;
}

function explain(token) {
  const top = token.top.some(({ text }) => text === token.text) ? token.top : [...token.top, token];
  const left = 1 - top.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0);
  const rows = top.map(({ text, logprob }) => bar(text, Math.exp(logprob), text === token.text));
  if (left > 0.0005) rows.push(bar(null, left, false));
  return el(
    "div",
    {},
    el("p", { class: "tip-head" }, el("code", {}, visible(token.text)), el("span", { class: "note" }, facts(token))),
    el("ul", { class: "bars" }, ...rows),
  );
}

function facts(token) {
  const parts = [`log-probability ${token.logprob?.toFixed(3) ?? "unknown"}`];
  if (token.id !== undefined) parts.unshift(`id ${token.id}`);
  return parts.join(", ");
}

function bar(text, p, chosen) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${Math.min(100, p * 100)}%`;
  return el(
    "li",
    { class: chosen ? "taken" : null },
    el("span", { class: "what" }, text === null ? "all others" : el("code", {}, visible(text))),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
    el("span", { class: "much" }, percent(p)),
  );
}

function place(tip, span) {
  const box = span.getClientRects()[0];
  if (!box || box.bottom < 0 || box.top > innerHeight) {
    tip.hidden = true;
    return;
  }
  tip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tip;
  const below = box.bottom + 8 + height < innerHeight || box.top < height + 8;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : box.top - height - 8}px`;
}
