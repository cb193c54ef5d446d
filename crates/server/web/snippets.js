// The present request as code: curl, Python and JavaScript (with the openai packages).

import { copy, el, icon, tabs } from "./page.js";

/** Fields that the openai package for Python has as arguments; all others go into `extra_body`. */
const KNOWN = new Set([
  "model", "prompt", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed",
  "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "logit_bias", "response_format",
]);

const LANGUAGES = { curl: ["curl", curl], python: ["Python", python], javascript: ["JavaScript", javascript] };

/** The panel. `ask()` gives the present `{path, body}`, or throws what is wrong with the form. */
export class CodePanel {
  #open = false;
  #language = "curl";
  #code = el("code");
  #note = el("p", { class: "help" });

  constructor(place, ask) {
    this.ask = ask;
    const list = el(
      "div",
      { class: "segments", role: "tablist", "aria-label": "Language" },
      ...Object.entries(LANGUAGES).map(([id, [name]], at) =>
        el("button", { type: "button", role: "tab", id: `code-${id}`, "aria-controls": "code", "aria-selected": String(at === 0), tabindex: at === 0 ? 0 : -1 }, name)),
    );
    const button = el("button", { type: "button", onclick: () => copy(this.#code.textContent, button) }, icon("copy"), el("span", { class: "text" }, "Copy"));
    const box = el("pre", { id: "code", role: "tabpanel", tabindex: 0, class: "snippet", "aria-label": "Code" }, this.#code);
    place.replaceChildren(el("div", { class: "actions" }, list, el("span", { class: "push" }), button), box, this.#note);
    tabs(list, (id) => {
      this.#language = id.replace("code-", "");
      // All three share one panel.
      box.hidden = false;
      this.changed();
    });
  }

  set open(open) {
    this.#open = open;
    this.changed();
  }

  changed() {
    if (!this.#open) return;
    try {
      const { path, body } = this.ask();
      this.#code.textContent = LANGUAGES[this.#language][1](location.origin, path, body);
      this.#note.textContent = "Exactly the present request. The key is read from the environment: VERVE_API_KEY.";
    } catch (error) {
      this.#code.textContent = "";
      this.#note.textContent = error.message;
    }
  }
}

/** For a shell: -N shows the stream as it comes. */
export function curl(origin, path, body) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", String.raw`'\''`);
  return [
    `curl -N ${origin}${path} \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -H "Authorization: Bearer $VERVE_API_KEY" \\`,
    `  -d '${quoted}'`,
  ].join("\n");
}

/** For the openai package from PyPI. */
export function python(origin, path, body) {
  const chat = path.includes("chat");
  const known = Object.entries(body).filter(([name]) => KNOWN.has(name));
  const extra = Object.entries(body).filter(([name]) => !KNOWN.has(name));
  const lines = known.map(([name, value]) => `    ${name}=${pythonValue(value, 4)},`);
  if (extra.length > 0) lines.push(`    extra_body=${pythonValue(Object.fromEntries(extra), 4)},`);
  const text = chat ? "choice.delta.content or \"\"" : "choice.text";
  return `import os

from openai import OpenAI

client = OpenAI(
    base_url="${origin}/v1",
    api_key=os.environ.get("VERVE_API_KEY", "none"),
)

stream = client.${chat ? "chat.completions" : "completions"}.create(
${lines.join("\n")}
)
for chunk in stream:
    for choice in chunk.choices:
        print(${text}, end="", flush=True)
print()
`;
}

function pythonValue(value, indent) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = " ".repeat(indent + 4);
  const outer = " ".repeat(indent);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const parts = Array.isArray(value)
    ? value.map((item) => pythonValue(item, indent + 4))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonValue(item, indent + 4)}`);
  const short = `${open}${parts.join(", ")}${close}`;
  if (short.length < 60 && !short.includes("\n")) return short;
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${outer}${close}`;
}

/** For the openai package from npm; fields it does not know are sent along. */
export function javascript(origin, path, body) {
  const chat = path.includes("chat");
  return `import OpenAI from "openai";

const client = new OpenAI({
  baseURL: "${origin}/v1",
  apiKey: process.env.VERVE_API_KEY ?? "none",
});

const stream = await client.${chat ? "chat.completions" : "completions"}.create(${JSON.stringify(body, null, 2)});
for await (const chunk of stream) {
  for (const choice of chunk.choices) {
    process.stdout.write(choice.${chat ? 'delta?.content ?? ""' : "text"});
  }
}
console.log();
`;
}
