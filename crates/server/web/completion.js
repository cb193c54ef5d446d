// Completion mode: a text, and how the model goes on from it.

import { byId, copy, el, icon, plural } from "./page.js";
import { Answer } from "./tokens.js";

const EXAMPLES = [
  ["A story", "Once upon a time, in a village at the edge of the forest,"],
  ["A pattern", "English: Good morning.\nFrench: Bonjour.\n\nEnglish: Thank you very much.\nFrench:"],
  ["A list", "Five things to pack for a week in the mountains:\n1."],
];

/** The completion view. `idle()` stops what is running, `onchange()` hears of every edit. */
export class Completion {
  path = "/v1/completions";
  #box = byId("prompt");
  #place = byId("completion-answers");
  #cards = [];

  constructor({ idle, onchange }) {
    this.idle = idle;
    this.onchange = onchange;
    this.#box.addEventListener("input", () => this.#changed());
    byId("prompt-clear").addEventListener("click", async () => {
      await idle();
      this.restore({});
      onchange();
      this.focus();
    });
    byId("prompt-examples").append(
      ...EXAMPLES.map(([name, text]) =>
        el("button", { type: "button", class: "chip", onclick: () => this.#write(text) }, name)),
    );
    this.#render();
  }

  focus() {
    this.#box.focus();
  }

  /** What the history and the draft keep. */
  state() {
    return { prompt: this.#box.value, answers: this.#cards.map(({ answer, note }) => ({ text: answer.text, note: note.textContent })) };
  }

  restore({ prompt = "", answers = [] }) {
    this.#box.value = prompt;
    this.#cards = answers.map(({ text, note }, at) => {
      const card = this.#card(at, answers.length);
      card.answer.append(text);
      card.note.textContent = note;
      return card;
    });
    this.#changed();
    this.#render();
  }

  title() {
    return this.#box.value.trim().slice(0, 120) || "(empty prompt)";
  }

  /** The fields of the request that are this mode's own. */
  body() {
    return { prompt: this.#box.value };
  }

  /** Why a request cannot be sent yet. */
  missing() {
    return this.#box.value === "" ? "Write a prompt first." : null;
  }

  /** Makes room for `n` answers, which are to be filled. */
  begin(n) {
    this.#cards = Array.from({ length: n }, (_, at) => this.#card(at, n));
    this.#render();
    this.#place.scrollIntoView({ block: "nearest" });
    return this.#cards.map(({ answer }) => answer);
  }

  /** Notes under each answer: how it ended, and what all of them took. */
  end(reasons, lines) {
    this.#cards.forEach(({ note, node }, at) => {
      note.textContent = [reasons[at], ...(at === this.#cards.length - 1 ? lines : [])].filter(Boolean).join("\n");
      node.classList.remove("growing");
    });
  }

  /** Nothing is to be kept of a request that failed before its first token. */
  drop() {
    this.#cards = [];
    this.#render();
  }

  follow() {}

  #write(text) {
    this.#box.value = text;
    this.#changed();
    this.focus();
  }

  #changed() {
    byId("prompt-examples").hidden = this.#box.value !== "";
    this.onchange();
  }

  #card(at, n) {
    const name = n === 1 ? "Answer" : `Answer ${at + 1} of ${n}`;
    const answer = new Answer(name);
    const note = el("p", { class: "stats" });
    const node = el(
      "article",
      { class: "card growing" },
      el("header", {}, el("h2", { class: "label" }, name), el("span", { class: "push" }),
        el("button", { type: "button", class: "quiet", onclick: (event) => copy(answer.text, event.currentTarget) }, icon("copy"), el("span", { class: "text" }, "Copy")),
        el("button", { type: "button", class: "quiet", title: "Put the answer at the end of the prompt", onclick: () => this.#goOn(answer) }, icon("down"), el("span", {}, "Go on from here"))),
      answer.node,
      note,
    );
    return { node, answer, note };
  }

  async #goOn(answer) {
    await this.idle();
    this.#write(this.#box.value + answer.text);
    this.#cards = [];
    this.#render();
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  #render() {
    const empty = el("p", { class: "empty" }, "The answer appears here. Point at a word to see what else was likely.");
    this.#place.replaceChildren(...(this.#cards.length > 0 ? this.#cards.map(({ node }) => node) : [empty]));
    this.#place.setAttribute("aria-label", plural(this.#cards.length, "answer"));
  }
}
