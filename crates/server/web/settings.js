// The settings: one table of what can be asked for, the form made from it, and the request's fields made from the form.

import { el, icon } from "./page.js";
import { ALTERNATIVES } from "./tokens.js";

const GROUPS = [
  { id: "main", title: null },
  { id: "choice", title: "Filters" },
  { id: "repetition", title: "Repetition" },
  { id: "mirostat", title: "Mirostat" },
  { id: "format", title: "Answer format" },
  { id: "ending", title: "Stopping" },
  { id: "answers", title: "Answers and logit bias" },
  { id: "view", title: "Display" },
];

/** Each setting: `initial` is what the server does when the field is not sent, unless `always` says that it is sent. */
const FIELDS = [
  { name: "temperature", group: "main", label: "Temperature", kind: "slider", initial: 1, min: 0, max: 2, step: 0.05, help: "0 always takes the likeliest token; more is more varied." },
  { name: "top_p", group: "main", label: "Top-p", kind: "slider", initial: 1, min: 0.01, max: 1, step: 0.01, help: "Only the likeliest tokens that together have this probability." },
  { name: "max_tokens", group: "main", label: "Max tokens", kind: "number", initial: 256, min: 1, step: 1, always: true, help: "Length of the answer at most. Empty: the server's default." },
  { name: "seed", group: "main", label: "Seed", kind: "number", initial: null, step: 1, placeholder: "random", help: "The same seed gives the same answer again." },

  { name: "top_k", group: "choice", label: "Top-k", kind: "number", initial: 0, min: 0, step: 1, help: "Only so many of the likeliest tokens. 0: all." },
  { name: "min_p", group: "choice", label: "Min-p", kind: "slider", initial: 0, min: 0, max: 1, step: 0.01, help: "Only tokens with this part of the likeliest one's probability." },
  { name: "typical_p", group: "choice", label: "Typical-p", kind: "slider", initial: 1, min: 0.01, max: 1, step: 0.01, help: "Only tokens about as surprising as is to be expected here." },
  { name: "top_n_sigma", group: "choice", label: "Top-n-sigma", kind: "number", initial: 0, min: 0, max: 100, step: 0.1, help: "Only logits within so many standard deviations of the greatest. 0: all." },

  { name: "repetition_penalty", group: "repetition", label: "Repetition penalty", kind: "slider", initial: 1, min: 0.5, max: 2, step: 0.01, help: "Above 1 holds back every token that has occurred." },
  { name: "presence_penalty", group: "repetition", label: "Presence penalty", kind: "slider", initial: 0, min: -2, max: 2, step: 0.05, help: "Taken off once if the answer has the token." },
  { name: "frequency_penalty", group: "repetition", label: "Frequency penalty", kind: "slider", initial: 0, min: -2, max: 2, step: 0.05, help: "Taken off for each time the answer has the token." },
  { name: "dry_multiplier", group: "repetition", label: "DRY multiplier", kind: "number", initial: 0, min: 0, max: 100, step: 0.1, help: "Holds back what would make a repeated passage longer. 0: off." },
  { name: "dry_base", group: "repetition", label: "DRY base", kind: "number", initial: 1.75, min: 1, max: 100, step: 0.05, help: "How much more with each token of the passage." },
  { name: "dry_allowed_length", group: "repetition", label: "DRY allowed length", kind: "number", initial: 2, min: 1, max: 50, step: 1, help: "Passages shorter than this are free." },

  { name: "mirostat_tau", group: "mirostat", label: "Aim (tau)", kind: "number", initial: 0, min: 0, max: 100, step: 0.1, help: "Bits of surprise in a token. 0: off. The other filters must then be at their defaults." },
  { name: "mirostat_eta", group: "mirostat", label: "Rate (eta)", kind: "number", initial: 0.1, min: 0, max: 1, step: 0.01, help: "How fast it follows its aim." },

  { name: "format", group: "format", label: "The answer is", kind: "select", initial: "text", options: { text: "free text", json: "any JSON object", schema: "JSON by a schema", regex: "what an expression matches", grammar: "what a grammar matches" } },
  { name: "schema", group: "format", label: "JSON schema", kind: "text", initial: '{\n  "type": "object",\n  "properties": {\n    "name": { "type": "string", "maxLength": 30 },\n    "age": { "type": "integer" }\n  },\n  "required": ["name", "age"],\n  "additionalProperties": false\n}', rows: 10, when: (values) => values.format === "schema" },
  { name: "regex", group: "format", label: "Regular expression", kind: "text", initial: "(yes|no)", rows: 2, when: (values) => values.format === "regex" },
  { name: "grammar", group: "format", label: "Grammar (Lark)", kind: "text", initial: 'start: "yes" | "no"', rows: 5, when: (values) => values.format === "grammar" },

  { name: "stop", group: "ending", label: "Stop strings", kind: "text", initial: "", rows: 3, placeholder: "\\n\\n", help: "One a line. The answer ends before the first of them. \\n is a line end, \\t a tab, \\\\ a backslash." },
  { name: "ignore_eos", group: "ending", label: "Go on after the token that ends a text", kind: "check", initial: false },

  { name: "n", group: "answers", label: "Answers", kind: "number", initial: 1, min: 1, max: 16, step: 1, help: "So many answers to the same prompt." },
  { name: "logit_bias", group: "answers", label: "Logit bias", kind: "text", initial: "", rows: 3, placeholder: "262: -100", help: "One token id and its bias a line: 100 forces, -100 forbids." },

  { name: "probabilities", group: "view", label: "Probabilities of tokens", kind: "check", initial: true, local: true, help: "Point at a token of the answer, or go to it with Tab and the arrow keys." },
  { name: "tint", group: "view", label: "Tint unlikely tokens", kind: "check", initial: false, local: true },
];

/** Fields that completions and chat call by other names. */
const OTHER_NAMES = { max_completion_tokens: "max_tokens", response_format: "format", json_schema: "schema", top_logprobs: "probabilities", logprobs: "probabilities" };

/** What the form has that cannot be sent. */
export class FormError extends Error {
  constructor(param, message) {
    super(message);
    this.param = param;
  }
}

/** The settings' form and values. `onchange` is called after each change. */
export class Settings {
  #inputs = new Map();
  #rows = new Map();
  #folds = new Map();

  constructor(place, onchange) {
    this.values = Object.fromEntries(FIELDS.map(({ name, initial }) => [name, initial]));
    this.onchange = onchange;
    const reset = el("button", { type: "button", onclick: () => this.restore({}) }, icon("reset"), el("span", { class: "text" }, "Reset all"));
    place.replaceChildren(...GROUPS.map((group) => this.#group(group)), el("div", { class: "actions" }, reset));
    this.#show();
  }

  /** Takes values kept before; those left out become the defaults. */
  restore(values) {
    for (const { name, initial } of FIELDS) this.values[name] = name in values ? values[name] : initial;
    this.#show();
    this.onchange();
  }

  /** The values that differ from the defaults. */
  changed() {
    return Object.fromEntries(FIELDS.filter(({ name, initial }) => this.values[name] !== initial).map(({ name }) => [name, this.values[name]]));
  }

  /** Shows the field a server's error speaks of. False when there is none. */
  point(param) {
    const name = String(param ?? "").split(/[.[]/)[0];
    const row = this.#rows.get(OTHER_NAMES[name] ?? name);
    if (!row) return false;
    row.closest("details")?.setAttribute("open", "");
    row.classList.add("wrong");
    row.querySelector("input, textarea, select").focus();
    return true;
  }

  /** Whether `point` would find a field. */
  has(param) {
    const name = String(param ?? "").split(/[.[]/)[0];
    return this.#rows.has(OTHER_NAMES[name] ?? name);
  }

  /**
   * The request's fields. Those at their defaults are left out.
   * @throws {FormError} when a text cannot be read
   */
  fields(mode) {
    const { values } = this;
    const body = {};
    for (const { name, kind, initial, always, local } of FIELDS) {
      const value = values[name];
      const plain = !local && (kind === "number" || kind === "slider" || kind === "check");
      if (plain && value !== null && (always || value !== initial)) body[name] = value;
    }
    if (mode === "chat" && "max_tokens" in body) {
      body.max_completion_tokens = body.max_tokens;
      delete body.max_tokens;
    }
    const stop = stopStrings(values.stop);
    if (stop.length > 0) body.stop = stop;
    const bias = biases(values.logit_bias);
    if (Object.keys(bias).length > 0) body.logit_bias = bias;
    Object.assign(body, form(values, mode));
    if (values.probabilities) Object.assign(body, mode === "chat" ? { logprobs: true, top_logprobs: ALTERNATIVES } : { logprobs: ALTERNATIVES });
    return body;
  }

  #group({ id, title }) {
    const rows = FIELDS.filter(({ group }) => group === id).map((field) => this.#row(field));
    if (title === null) return el("div", { class: "group" }, ...rows);
    const note = el("span", { class: "note" });
    this.#folds.set(id, note);
    return el("details", { class: "group" }, el("summary", {}, title, " ", note), ...rows);
  }

  #row(field) {
    const { name, label, kind, help, initial } = field;
    const id = `set-${name}`;
    const helpId = help ? `${id}-help` : null;
    const inputs = makeInputs(field, id, helpId, (value) => {
      this.values[name] = value;
      this.#show(name);
      this.onchange();
    });
    this.#inputs.set(name, inputs);
    const shownDefault = kind === "number" || kind === "slider" ? `default ${initial ?? field.placeholder}` : null;
    const row = el(
      "div",
      { class: `field ${kind}`, "data-name": name },
      kind === "check"
        ? el("label", { class: "check" }, inputs.main, " ", el("span", {}, label))
        : el("div", { class: "head" }, el("label", { class: "label", for: id }, label), shownDefault && el("span", { class: "default" }, shownDefault), kind !== "text" && inputs.main),
      inputs.slider,
      kind === "text" ? inputs.main : null,
      help ? el("p", { class: "help", id: helpId }, help) : null,
    );
    this.#rows.set(name, row);
    return row;
  }

  /** Brings the form up to the values; the field being typed in is left alone. */
  #show(typing) {
    for (const field of FIELDS) {
      const { name, initial, when } = field;
      const row = this.#rows.get(name);
      if (name !== typing) this.#inputs.get(name).show(this.values[name]);
      else this.#inputs.get(name).follow?.(this.values[name]);
      row.classList.toggle("changed", this.values[name] !== initial);
      row.hidden = when ? !when(this.values) : false;
      if (name === typing || typing === undefined) row.classList.remove("wrong");
    }
    for (const [id, note] of this.#folds) {
      const n = FIELDS.filter(({ group, name, initial, when }) => group === id && this.values[name] !== initial && (!when || when(this.values))).length;
      note.textContent = n > 0 ? `${n} changed` : "";
    }
  }
}

function makeInputs(field, id, helpId, onvalue) {
  const { kind, min, max, step, placeholder, rows, options, label } = field;
  const described = { "aria-describedby": helpId };
  if (kind === "check") {
    const main = el("input", { type: "checkbox", id, ...described, onchange: () => onvalue(main.checked) });
    return { main, show: (value) => (main.checked = value) };
  }
  if (kind === "select") {
    const main = el("select", { id, onchange: () => onvalue(main.value) }, ...Object.entries(options).map(([value, text]) => el("option", { value }, text)));
    return { main, show: (value) => (main.value = value) };
  }
  if (kind === "text") {
    const main = el("textarea", { id, rows, placeholder, spellcheck: "false", class: "code", ...described, oninput: () => onvalue(main.value) });
    return { main, show: (value) => (main.value = value) };
  }
  const read = (input) => (input.value === "" ? null : Number(input.value));
  const main = el("input", { type: "number", id, min, max, step: "any", placeholder: placeholder ?? "default", inputmode: "decimal", ...described, oninput: () => onvalue(read(main)) });
  if (kind !== "slider") return { main, show: (value) => (main.value = value ?? "") };
  const slider = el("input", { type: "range", min, max, step, "aria-label": label, oninput: () => {
    main.value = slider.value;
    onvalue(read(slider));
  } });
  const follow = (value) => (slider.value = value ?? field.initial);
  const show = (value) => {
    main.value = value ?? "";
    follow(value);
  };
  return { main, slider, show, follow };
}

function stopStrings(text) {
  const escapes = { n: "\n", t: "\t", r: "\r", "\\": "\\" };
  return text.split("\n").filter((line) => line !== "").map((line) => line.replace(/\\([ntr\\])/g, (_, letter) => escapes[letter]));
}

function biases(text) {
  const map = {};
  for (const line of text.split("\n").filter((line) => line.trim() !== "")) {
    const parts = /^\s*(\d+)\s*[:= ]\s*([+-]?\d+(?:\.\d+)?)\s*$/.exec(line);
    if (!parts) throw new FormError("logit_bias", `Logit bias: “${line.trim()}” is not a token id and a number, like 262: -100.`);
    map[parts[1]] = Number(parts[2]);
  }
  return map;
}

function form(values, mode) {
  const chat = mode === "chat";
  switch (values.format) {
    case "json":
      return chat ? { response_format: { type: "json_object" } } : { json_schema: { type: "object" } };
    case "schema": {
      const schema = parsed(values.schema);
      return chat ? { response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } } } : { json_schema: schema };
    }
    case "regex":
      return { regex: values.regex };
    case "grammar":
      return { grammar: values.grammar };
    default:
      return {};
  }
}

function parsed(text) {
  let schema;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    throw new FormError("schema", `JSON schema: this is not JSON. ${error.message}`);
  }
  if (typeof schema !== "object" || schema === null || Array.isArray(schema)) throw new FormError("schema", "JSON schema: it must be an object.");
  return schema;
}
