// The playground: brings the views, the settings and the server together.

import { ApiError, key, request, stream } from "./api.js";
import { Chat } from "./chat.js";
import { Completion } from "./completion.js";
import { History } from "./history.js";
import { announce, byId, el, icon, millis, plural, rate, store, tabs, themeButton } from "./page.js";
import { PromptPanel } from "./prompt.js";
import { FormError, Settings } from "./settings.js";
import { CodePanel } from "./snippets.js";
import { legend, tokensOf, watchTokens } from "./tokens.js";

const DRAFT = "verve.draft";
const REASONS = { stop: "ended by itself", length: "reached max tokens", content_filter: "stopped by a filter", tool_calls: "called a tool" };

let mode = "completion";
let running = null;
let ending = Promise.resolve();
let saving = 0;
const draft = store.get(DRAFT, {});

const views = {};
const settings = new Settings(byId("panel-settings"), changed);
const hooks = { run, idle, onchange: changed };
views.completion = new Completion(hooks);
views.chat = new Chat(hooks);
const promptPanel = new PromptPanel(byId("panel-prompt"), () => ({ mode, model: model(), body: views[mode].body() }));
const codePanel = new CodePanel(byId("panel-code"), call);
const history = new History(byId("panel-history"), restore);

const showPanel = tabs(document.querySelector('.panel > [role="tablist"]'), (id) => {
  promptPanel.open = id === "tab-prompt";
  codePanel.open = id === "tab-code";
});

/** The model chosen. */
const model = () => byId("model").value;

/** The request as it would be sent now. */
function call() {
  const body = { model: model(), ...views[mode].body(), ...settings.fields(mode), stream: true, stream_options: { include_usage: true }, return_token_ids: true };
  return { path: views[mode].path, body };
}

/** After each edit: the panels follow, and the draft is kept. */
function changed() {
  if (!views.chat) return;
  document.body.classList.toggle("tinted", settings.values.tint);
  promptPanel.changed();
  codePanel.changed();
  clearTimeout(saving);
  saving = setTimeout(saveDraft, 300);
}

function saveDraft() {
  clearTimeout(saving);
  const kept = { mode, model: model() || draft.model, settings: settings.changed() };
  for (const [name, view] of Object.entries(views)) kept[name] = view.state();
  store.set(DRAFT, kept);
}

function setMode(next) {
  mode = next;
  for (const name of Object.keys(views)) {
    byId(name).hidden = name !== mode;
    byId(`mode-${name}`).setAttribute("aria-pressed", String(name === mode));
  }
  changed();
}

/** Puts back an entry of the history or the draft. */
async function restore({ mode: kept, model: name, settings: values, state }) {
  await idle();
  settings.restore(values ?? {});
  views[kept].restore(state ?? {});
  chooseModel(name);
  setMode(kept);
  clearError();
  views[kept].focus();
}

function chooseModel(name) {
  if ([...byId("model").options].some((option) => option.value === name)) byId("model").value = name;
}

async function loadModels() {
  const picker = byId("model");
  const chosen = picker.value || draft.model;
  try {
    const { data } = await request("GET", "/v1/models");
    picker.replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
    picker.disabled = data.length === 0;
    if (data.length === 0) picker.append(el("option", { value: "" }, "no models"));
    chooseModel(chosen);
    clearError();
    changed();
  } catch (error) {
    picker.replaceChildren(el("option", { value: "" }, "no models"));
    picker.disabled = true;
    showError(error, { again: loadModels });
  }
}

/** Starts a request, unless one is running. */
function run() {
  if (!running) ending = generate();
}

/** Stops what is running and waits until the page has put it away. */
async function idle() {
  stop();
  await ending;
}

/** Sends the request and shows the answers as they come. */
async function generate() {
  const asked = mode;
  clearError();
  const view = views[asked];
  let what;
  try {
    what = call();
  } catch (error) {
    return showError(error);
  }
  const missing = view.missing();
  if (missing) {
    announce(missing);
    return view.focus();
  }
  const answers = view.begin(what.body.n ?? 1);
  const clock = { start: performance.now(), first: null, last: null, tokens: 0 };
  const speaker = speech();
  const reasons = [];
  const facts = {};
  let failure = null;
  const controller = new AbortController();
  setRunning(controller);
  try {
    for await (const chunk of stream(what.path, what.body, controller.signal)) {
      take(chunk, { answers, clock, reasons, facts, speaker });
      follow(view);
    }
  } catch (error) {
    failure = error;
  }
  setRunning(null);
  for (const answer of answers) answer.finish();
  const stopped = failure?.name === "AbortError";
  if (failure && !stopped) showError(failure);
  if (clock.first === null && failure) view.drop();
  else {
    const ends = answers.map((_, at) => (reasons[at] ? REASONS[reasons[at]] ?? reasons[at] : stopped ? "stopped by you" : "broken off"));
    view.end(ends, measured(clock, facts));
    remember(what.body.model, asked);
    speaker.end(stopped ? "Stopped." : failure ? "" : `Done. ${plural(facts.usage?.completion_tokens ?? clock.tokens, "token")}.`);
  }
  saveDraft();
  promptPanel.changed();
  codePanel.changed();
}

function take(chunk, { answers, clock, reasons, facts, speaker }) {
  const read = chunk.prompt_token_ids ?? chunk.choices?.[0]?.prompt_token_ids;
  if (read) promptPanel.read(read);
  if (chunk.usage) facts.usage = chunk.usage;
  if (chunk.timings) facts.timings = chunk.timings;
  for (const choice of chunk.choices ?? []) {
    const text = choice.text ?? choice.delta?.content ?? "";
    const tokens = tokensOf(choice);
    if (text || tokens.length > 0) {
      clock.last = performance.now();
      clock.first ??= clock.last;
      clock.tokens += choice.token_ids?.length || tokens.length || 1;
    }
    answers[choice.index]?.append(text, tokens);
    if (choice.index === 0) speaker.say(text);
    if (choice.finish_reason) reasons[choice.index] = choice.finish_reason;
  }
}

/** Two lines: what this page has measured, and what the server says. */
function measured({ start, first, last, tokens }, { usage, timings }) {
  const n = usage?.completion_tokens ?? tokens;
  const page = [plural(n, "token")];
  if (last > first && n > 1) page.push(`${rate(((n - 1) * 1000) / (last - first))} tokens/s`);
  if (first !== null) page.push(`first token after ${millis(first - start)}`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    page.push(`prompt of ${plural(usage.prompt_tokens, "token")}${cached ? `, ${cached} of them cached` : ""}`);
  }
  const lines = [page.join(" · ")];
  if (timings) {
    const { first_token_ms: token, tokens_per_second: speed, total_ms: total } = timings;
    const server = [];
    if (token !== undefined) server.push(`first token after ${millis(token)}`);
    if (speed) server.push(`${rate(speed)} tokens/s`);
    if (total !== undefined) server.push(`${millis(total)} in all`);
    lines.push(`Server: ${server.join(" · ")}`);
  }
  return lines;
}

function remember(name, asked) {
  const view = views[asked];
  const id = view.conversation ?? `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`;
  history.add({ id, time: Date.now(), mode: asked, model: name, settings: settings.changed(), state: view.state(), title: view.title() });
}

let following = 0;

/** At most once a frame: it measures the page. */
function follow(view) {
  following ||= requestAnimationFrame(() => {
    following = 0;
    view.follow();
  });
}

function stop() {
  running?.abort();
}

function setRunning(controller) {
  running = controller;
  document.body.classList.toggle("running", Boolean(controller));
  for (const button of document.querySelectorAll(".run")) {
    const [name, keys, symbol] = controller ? ["Stop", "Esc", "stop"] : ["Generate", "Ctrl Enter", "play"];
    button.replaceChildren(icon(symbol), el("span", {}, name), el("kbd", { "aria-hidden": "true" }, keys));
    button.setAttribute("aria-keyshortcuts", controller ? "Escape" : "Control+Enter");
    button.classList.toggle("stop", Boolean(controller));
  }
}

/** Reads the answer out sentence by sentence: single tokens are no use to a listener. */
function speech() {
  let waiting = "";
  announce("Generating.");
  return {
    say(text) {
      waiting += text;
      const end = waiting.length > 60 ? waiting.search(/[.!?\n](?=[^.!?\n]*$)/) : -1;
      if (end < 0 && waiting.length < 400) return;
      const to = end < 0 ? waiting.length : end + 1;
      announce(waiting.slice(0, to));
      waiting = waiting.slice(to);
    },
    end(text) {
      announce(waiting);
      announce(text);
    },
  };
}

function clearError() {
  byId("errors").replaceChildren();
}

/** An error in the words of whoever found it, with what can be done about it. */
function showError(error, { again } = {}) {
  const facts = [];
  if (error.status) facts.push(el("code", {}, String(error.status)));
  for (const value of [error.type, error.code]) if (value) facts.push(el("code", {}, String(value)));
  if (error.param) facts.push(el("span", {}, "parameter ", el("code", {}, error.param)));
  if (error.retryAfter) facts.push(el("span", {}, `try again in ${error.retryAfter} s`));
  if (error.requestId) facts.push(el("span", {}, "request ", el("code", {}, error.requestId)));
  const buttons = [];
  if (again) buttons.push(el("button", { type: "button", onclick: again }, "Try again"));
  if (error.status === 401 || error.status === 403) buttons.push(el("button", { type: "button", onclick: openKey }, "Enter a key"));
  if (settings.has(error.param)) buttons.push(el("button", { type: "button", onclick: () => {
    showPanel("tab-settings");
    settings.point(error.param);
  } }, "Show the setting"));
  buttons.push(el("button", { type: "button", onclick: clearError }, "Close"));
  const known = error instanceof ApiError || error instanceof FormError;
  byId("errors").replaceChildren(
    el("div", { class: "error", role: "alert" }, el("p", { class: "words" }, known ? error.message : `The page could not read the answer: ${error.message}`), facts.length > 0 ? el("p", { class: "facts" }, ...facts) : null, el("div", { class: "actions" }, ...buttons)),
  );
  byId("errors").scrollIntoView({ block: "nearest" });
}

function openKey() {
  byId("key-input").value = key.get();
  byId("key-remember").checked = key.remembered();
  byId("key-dialog").showModal();
}

function showKey() {
  byId("key-label").textContent = key.get() ? `Key …${key.get().slice(-4)}` : "API key";
}

function useKey(value) {
  key.set(value, byId("key-remember").checked);
  byId("key-dialog").close();
  showKey();
  loadModels();
}

byId("key-button").addEventListener("click", openKey);
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-forget").addEventListener("click", () => useKey(""));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key-input").value.trim());
});
for (const name of Object.keys(views)) byId(`mode-${name}`).addEventListener("click", () => setMode(name));
for (const button of document.querySelectorAll(".run")) button.addEventListener("click", () => (running ? stop() : run()));
for (const button of document.querySelectorAll(".to-panel")) button.addEventListener("click", () => {
  byId("tab-settings").scrollIntoView({ block: "start" });
  byId("tab-settings").focus({ preventScroll: true });
  showPanel("tab-settings");
});
byId("model").addEventListener("change", changed);
document.addEventListener("keydown", (event) => {
  if (byId("key-dialog").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape" && running) {
    event.preventDefault();
    stop();
  }
});
addEventListener("pagehide", saveDraft);

themeButton(byId("theme"));
watchTokens();
setRunning(null);
showKey();
byId("panel-settings").querySelector('[data-name="tint"]').append(legend());
settings.restore(draft.settings ?? {});
for (const [name, view] of Object.entries(views)) view.restore(draft[name] ?? {});
setMode(draft.mode in views ? draft.mode : "completion");
loadModels();
