// Chat mode: a conversation, each message of which can be changed and sent again.

import { announce, byId, copy, el, icon, iconButton } from "./page.js";
import { Answer } from "./tokens.js";

const EXAMPLES = ["What makes the sky blue?", "Give me three names for a small bakery.", "Explain a hash table to a child."];

/**
 * The chat view. A message is `{role: "user", text}` or `{role: "assistant", variants: [{text, note, answer?}], shown}`;
 * `answer` shows the tokens while they are known.
 */
export class Chat {
  path = "/v1/chat/completions";
  #messages = [];
  #editing = null;
  #box = byId("message");
  #system = byId("system");
  #list = byId("messages");

  constructor({ run, idle, onchange }) {
    this.run = run;
    this.onchange = onchange;
    this.#box.addEventListener("input", onchange);
    this.#system.addEventListener("input", () => {
      this.#noteSystem();
      onchange();
    });
    byId("chat-clear").addEventListener("click", async () => {
      await idle();
      this.restore({ system: this.#system.value });
      announce("The conversation was cleared.");
      onchange();
      this.focus();
    });
    this.#render();
  }

  focus() {
    this.#box.focus();
  }

  /** What the history and the draft keep. */
  state() {
    const messages = this.#messages.map((message) =>
      message.role === "user" ? message : { ...message, variants: message.variants.map(({ text, note }) => ({ text, note })) });
    return { system: this.#system.value, message: this.#box.value, messages, conversation: this.conversation };
  }

  restore({ system = "", message = "", messages = [], conversation }) {
    this.#system.value = system;
    this.#box.value = message;
    this.#messages = structuredClone(messages);
    this.conversation = conversation ?? newId();
    this.#editing = null;
    this.#noteSystem();
    this.#render();
  }

  title() {
    return this.#messages.find(({ role }) => role === "user")?.text.trim().slice(0, 120) || "(empty conversation)";
  }

  /** The fields of the request that are this mode's own: the conversation and the message being written. */
  body() {
    const messages = [];
    if (this.#system.value !== "") messages.push({ role: "system", content: this.#system.value });
    // With nothing being written, what would be sent is what answers the last message again.
    const answered = this.#box.value === "" && this.#messages.at(-1)?.role === "assistant";
    for (const message of answered ? this.#messages.slice(0, -1) : this.#messages) messages.push({ role: message.role, content: textOf(message) });
    if (this.#box.value !== "") messages.push({ role: "user", content: this.#box.value });
    return { messages };
  }

  /** Why a request cannot be sent yet. */
  missing() {
    return this.#box.value === "" && this.#messages.at(-1)?.role !== "user" ? "Write a message first." : null;
  }

  /** Moves the message being written into the conversation and makes room for `n` answers to it. */
  begin(n) {
    if (this.#box.value !== "") this.#messages.push({ role: "user", text: this.#box.value });
    this.#box.value = "";
    this.#editing = null;
    const variants = Array.from({ length: n }, (_, at) => ({ text: "", note: "", answer: new Answer(`Answer ${at + 1} of ${n}`) }));
    this.#messages.push({ role: "assistant", variants, shown: 0, growing: true });
    this.#render();
    this.follow(true);
    return variants.map(({ answer }) => answer);
  }

  /** Notes under each answer: how it ended, and what all of them took. */
  end(reasons, lines) {
    const last = this.#messages.at(-1);
    last.variants.forEach((variant, at) => {
      variant.text = variant.answer.text;
      variant.note = [reasons[at], ...lines].filter(Boolean).join("\n");
    });
    delete last.growing;
    this.#render();
    this.follow();
  }

  /** Nothing is to be kept of a request that failed before its first token; the message can be sent again. */
  drop() {
    this.#messages.pop();
    const last = this.#messages.at(-1);
    if (last?.role === "user" && this.#box.value === "") {
      this.#box.value = last.text;
      this.#messages.pop();
    }
    this.#render();
  }

  /** Keeps the end in sight, unless the reader has gone up. */
  follow(always = false) {
    // On wide screens the list scrolls, on narrow ones the page, down to where the chat ends and the settings begin.
    const inside = this.#list.scrollHeight > this.#list.clientHeight + 1;
    const scroller = inside ? this.#list : document.scrollingElement;
    const away = inside ? scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop : byId("chat").getBoundingClientRect().bottom - innerHeight;
    if (away > 0 && (always || away < 120)) scroller.scrollTop += away;
  }

  #noteSystem() {
    const { value } = this.#system;
    byId("system-note").textContent = value === "" ? "none" : value.replace(/\s+/g, " ").slice(0, 60);
  }

  #render() {
    if (this.#messages.length > 0) {
      this.#list.replaceChildren(...this.#messages.map((message, at) => this.#item(message, at)));
      return;
    }
    const examples = EXAMPLES.map((text) =>
      el("button", { type: "button", class: "chip", onclick: () => {
        this.#box.value = text;
        this.onchange();
        this.focus();
      } }, text));
    this.#list.replaceChildren(el("div", { class: "empty" }, el("p", {}, "Say something to the model."), el("div", { class: "examples", role: "group", "aria-label": "Example messages" }, ...examples)));
  }

  #item(message, at) {
    const user = message.role === "user";
    const head = el("header", {}, el("h2", { class: "label" }, user ? "You" : "Model"), el("span", { class: "push" }), ...this.#buttons(message, at));
    const node = el("article", { class: `message ${message.role}${message.growing ? " growing" : ""}` }, head);
    if (this.#editing === at) node.append(...this.#editor(message, at));
    else if (user) node.append(el("div", { class: "answer reading" }, message.text));
    else {
      const { text, note, answer } = message.variants[message.shown];
      node.append(answer?.node ?? el("div", { class: "answer reading" }, text));
      if (note) node.append(el("p", { class: "stats" }, note));
    }
    return node;
  }

  #buttons(message, at) {
    if (this.#messages.at(-1).growing || this.#editing === at) return [];
    const buttons = [];
    if (message.variants?.length > 1) {
      const { length } = message.variants;
      const turn = (by) => {
        message.shown = (message.shown + by + length) % length;
        this.#render();
        this.onchange();
        this.#list.children[at].querySelector(by < 0 ? '[aria-label="Answer before"]' : '[aria-label="Next answer"]').focus();
      };
      buttons.push(iconButton("left", "Answer before", () => turn(-1)), el("span", { class: "note" }, `${message.shown + 1}/${length}`), iconButton("right", "Next answer", () => turn(1)));
    }
    buttons.push(
      iconButton("copy", "Copy", () => copy(textOf(message))),
      iconButton("edit", "Edit", () => this.#edit(at)),
    );
    if (at === this.#messages.length - 1 && message.role === "assistant") buttons.push(iconButton("again", "Answer again", () => this.#again()));
    return buttons;
  }

  #edit(at) {
    this.#editing = at;
    this.#render();
    const box = this.#list.children[at].querySelector("textarea");
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }

  #editor(message, at) {
    const user = message.role === "user";
    const box = el("textarea", { rows: Math.min(12, textOf(message).split("\n").length + 1), "aria-label": user ? "Your message" : "The model's message" });
    box.value = textOf(message);
    const close = () => {
      this.#editing = null;
      this.#render();
      this.onchange();
    };
    const save = () => {
      if (user) message.text = box.value;
      else message.variants[message.shown] = { text: box.value, note: "edited" };
      close();
    };
    const resend = () => {
      this.#messages.length = at + 1;
      save();
      this.run();
    };
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
        this.#list.children[at].querySelector('[aria-label="Edit"]').focus();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        event.stopPropagation();
        if (user) resend();
        else save();
      }
    });
    const main = user
      ? el("button", { type: "button", class: "primary", onclick: resend }, "Send again from here")
      : el("button", { type: "button", class: "primary", onclick: save }, "Keep");
    return [box, el("div", { class: "actions" }, main, el("button", { type: "button", onclick: close }, "Cancel"))];
  }

  #again() {
    this.#messages.pop();
    this.run();
  }

  /** The conversation's name in the history: one entry holds all its turns. */
  conversation = newId();
}

const textOf = (message) => (message.role === "user" ? message.text : message.variants[message.shown].text);

const newId = () => `c${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;
