// The administrator's page: asks for /admin/status every second and shows it. It changes nothing on the server.

import { key, request } from "./api.js";
import { announce, byId, bytes, count, duration, el, millis, percent, plural, rate, svg, themeButton } from "./page.js";

/** How often to ask, in milliseconds, and how long to wait at most when nobody answers. */
const EVERY = 1000;
const PATIENCE = 10_000;
/** Samples kept: the last five minutes. */
const SAMPLES = 300;

const CHARTS = [
  { id: "generated", title: "Tokens generated", unit: "tokens/s", text: rate },
  { id: "prompt", title: "Prompt tokens read", unit: "tokens/s", text: rate },
  { id: "load", title: "Sequences running", unit: "", text: count },
  { id: "waiting", title: "Sequences waiting", unit: "", text: count },
];

const samples = [];
let before = null;
let timer = 0;
let failures = 0;
let asking = null;

async function ask() {
  clearTimeout(timer);
  if (document.hidden) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  const patience = setTimeout(() => mine.abort(), PATIENCE);
  let wait = EVERY;
  try {
    show(await request("GET", "/admin/status", undefined, mine.signal));
    failures = 0;
  } catch (error) {
    if (mine !== asking) return;
    if (error.status === 401 || error.status === 403) {
      clearTimeout(patience);
      return gate(error);
    }
    wait = Math.min(5000, EVERY * 2 ** failures++);
    trouble(error.name === "AbortError" ? "The server does not answer." : error.message);
  }
  clearTimeout(patience);
  timer = setTimeout(ask, wait);
}

/** The server wants a key: nothing is asked until there is one. */
function gate(error) {
  const first = !key.get();
  byId("gate-words").textContent = first ? "" : error.message;
  byId("gate").hidden = false;
  byId("figures").hidden = true;
  byId("forget").hidden = true;
  byId("trouble").replaceChildren();
  state("gone", "locked");
  byId("since").textContent = "";
  byId("gate-key").focus();
}

function trouble(words) {
  byId("figures").classList.add("stale");
  state("gone", "no answer");
  if (byId("trouble").childElementCount > 0) return;
  byId("trouble").append(el("div", { class: "error" }, el("p", {}, `${words} Asking again; the figures below are old.`)));
}

function state(kind, words) {
  const node = byId("state");
  if (node.textContent === words) return;
  node.className = `state ${kind}`;
  node.textContent = words;
}

function show(status) {
  if (byId("trouble").childElementCount > 0) announce("The server answers again.");
  byId("trouble").replaceChildren();
  byId("gate").hidden = true;
  byId("figures").hidden = false;
  byId("figures").classList.remove("stale");
  byId("forget").hidden = !key.get();
  if (status.draining) state("warn", "draining");
  else state("good", "running");
  byId("since").textContent = `verve ${status.version}, up for ${duration(status.uptime_s)}, ${plural(status.connections, "connection")}`;
  const now = totals(status);
  sample(now);
  tiles(now);
  charts();
  byId("models").replaceChildren(...status.models.map(model));
  rows("keys", KEY_COLUMNS, status.keys ?? [], "No keys: everybody who reaches this server may use it.");
  rows("recent", RECENT_COLUMNS, status.recent ?? [], "No requests yet.");
}

/** Sums over the models. */
function totals({ models, uptime_s: uptime }) {
  const sum = (name) => models.reduce((total, one) => total + (one[name] ?? 0), 0);
  return {
    at: performance.now(),
    uptime,
    running: sum("running"),
    waiting: sum("waiting"),
    limit: sum("limit"),
    requests: sum("requests"),
    generated: sum("generated_tokens"),
    prompt: sum("prompt_tokens"),
    cached: sum("cached_tokens"),
    blocks: sum("kv_blocks"),
    used: sum("kv_used"),
  };
}

/** Speeds are differences; a restart or an unloaded model makes counters fall, and then there is none. */
function sample(now) {
  const speed = (name) => {
    if (!before || now.uptime < before.uptime || now[name] < before[name]) return 0;
    return ((now[name] - before[name]) * 1000) / Math.max(1, now.at - before.at);
  };
  samples.push({ generated: speed("generated"), prompt: speed("prompt"), load: now.running, waiting: now.waiting });
  if (samples.length > SAMPLES) samples.shift();
  before = now;
}

function tiles(now) {
  const { generated } = samples.at(-1);
  const all = [
    ["Open requests", count(now.requests), now.limit ? `of ${count(now.limit)}` : ""],
    ["Sequences running", count(now.running), ""],
    ["Sequences waiting", count(now.waiting), ""],
    ["Generating", rate(generated), "tokens/s"],
    ["Prompt found in cache", now.prompt ? percent(now.cached / now.prompt) : "none yet", ""],
    ["KV cache in use", now.blocks ? percent(now.used / now.blocks) : "none", ""],
  ];
  const place = byId("tiles");
  if (place.childElementCount === 0) place.append(...all.map(([name]) => el("dl", { class: "tile" }, el("dt", {}, name), el("dd", {}))));
  all.forEach(([, value, unit], at) => place.children[at].querySelector("dd").replaceChildren(value, " ", el("small", {}, unit)));
}

function charts() {
  const place = byId("charts");
  if (place.childElementCount === 0) place.append(...CHARTS.map(makeChart));
  CHARTS.forEach((chart, at) => drawChart(place.children[at], chart));
}

function makeChart({ title }) {
  const drawing = svg("svg", { viewBox: "0 0 300 80", preserveAspectRatio: "none", role: "img" },
    svg("path", { class: "area" }), svg("line", { class: "base", x1: 0, x2: 300, y1: 80, y2: 80 }), svg("path", { class: "curve" }));
  return el("figure", { class: "chart" }, el("figcaption", {}, el("span", {}, title), el("strong", {})), drawing, el("p", { class: "ends" }, el("span"), el("span")));
}

function drawChart(node, { id, title, unit, text }) {
  const values = samples.map((one) => one[id]);
  const top = Math.max(1, ...values);
  // The width stands for one minute at first, and for all that is kept later on.
  const step = 300 / Math.max(60, values.length - 1);
  const points = values.map((value, at) => `${(300 - (values.length - 1 - at) * step).toFixed(1)} ${(78 - (value / top) * 74).toFixed(1)}`);
  const from = points[0].split(" ")[0];
  node.querySelector(".curve").setAttribute("d", `M${points.join("L")}`);
  node.querySelector(".area").setAttribute("d", `M${from} 80L${points.join("L")}L300 80Z`);
  const now = `${text(values.at(-1))} ${unit}`.trim();
  node.querySelector("strong").textContent = now;
  const [span, most] = node.querySelectorAll(".ends span");
  span.textContent = `last ${duration(Math.max(1, values.length - 1))}`;
  most.textContent = `most ${text(Math.max(...values))}`;
  node.querySelector("svg").setAttribute("aria-label", `${title}: now ${now}, most ${text(Math.max(...values))} in the last minutes`);
}

function model(one) {
  const { name, state: kind } = one;
  const head = el("header", {}, el("h3", {}, name), el("span", { class: `state ${kind}` }, kind));
  if (kind !== "loaded") {
    const words = { loading: "Being read into memory.", unloaded: "Read into memory when somebody asks for it." };
    return el("article", { class: "card" }, head, el("p", { class: kind === "failed" ? "bad" : "note" }, one.error ?? words[kind]), el("p", { class: "note" }, one.bytes ? `${bytes(one.bytes)}` : ""));
  }
  const facts = [
    ["Memory", bytes(one.bytes)],
    ["Context", count(one.n_ctx)],
    ["Running", plural(one.running, "sequence")],
    ["Waiting", plural(one.waiting, "sequence")],
    ["Requests", `${count(one.requests)} of ${count(one.limit)}`],
    ["Steps", count(one.steps)],
    ["Prompt tokens", count(one.prompt_tokens)],
    ["From cache", one.prompt_tokens ? percent(one.cached_tokens / one.prompt_tokens) : "none"],
    ["Generated", count(one.generated_tokens)],
    ["Preemptions", count(one.preemptions)],
  ];
  return el("article", { class: "card" }, head, ...cache(one), el("dl", { class: "pairs" }, ...facts.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value)))));
}

/** The KV cache: blocks of running requests, blocks kept because another may begin the same way, free blocks. */
function cache({ kv_blocks: blocks, kv_used: used, kv_idle: idle }) {
  if (!blocks) return [];
  const free = Math.max(0, blocks - used - idle);
  const part = (kind, n) => {
    const node = el("span", { class: kind });
    node.style.width = `${(n / blocks) * 100}%`;
    return node;
  };
  const name = (kind, words, n) => el("span", { class: kind }, `${words} ${count(n)}`);
  return [
    el("div", { class: "cache", role: "img", "aria-label": `KV cache of ${count(blocks)} blocks: ${count(used)} used, ${count(idle)} kept for reuse, ${count(free)} free` }, part("used", used), part("idle", idle)),
    el("p", { class: "key-list" }, name("used", "used", used), name("idle", "kept for reuse", idle), name("free", "free", free)),
  ];
}

const KEY_COLUMNS = [
  ["Name", ({ name, id }) => el("span", { title: id }, name || id)],
  ["State", keyState],
  ["Scopes", ({ scopes }) => (scopes ?? []).join(", ")],
  ["Requests today", ({ requests_today: n, limits }) => usage(n, limits?.requests_per_day), "n"],
  ["Tokens today", ({ tokens_today: n, limits }) => usage(n, limits?.tokens_per_day), "n"],
  ["Limits a minute", ({ limits }) => minute(limits)],
  ["Last used", ({ last_used: at }) => (at ? `${duration(Date.now() / 1000 - at)} ago` : "never")],
];

/** How requests end that is nobody's fault. */
const OUTCOMES = { done: "fine", cancelled: "note" };

const RECENT_COLUMNS = [
  ["Time", ({ time }) => new Date(time * 1000).toLocaleTimeString()],
  ["Outcome", ({ status }) => el("span", { class: OUTCOMES[status] ?? "bad" }, status)],
  ["Endpoint", ({ endpoint }) => endpoint],
  ["Model", ({ model: name }) => name ?? ""],
  ["Key", ({ key: name }) => name ?? ""],
  ["Prompt", ({ prompt_tokens: n }) => optional(n, count), "n"],
  ["Answer", ({ completion_tokens: n }) => optional(n, count), "n"],
  ["First token", ({ ttft_ms: ms }) => optional(ms, millis), "n"],
  ["Total", ({ total_ms: ms }) => optional(ms, millis), "n"],
  ["Request", ({ request_id: id }) => el("code", {}, id)],
];

const optional = (value, text) => (value === null || value === undefined ? "" : text(value));

function keyState({ revoked, expires_at: expires }) {
  const left = expires ? expires - Date.now() / 1000 : null;
  if (revoked) return el("span", { class: "state gone" }, "revoked");
  if (left !== null && left <= 0) return el("span", { class: "state gone" }, "expired");
  if (left !== null) return el("span", { class: "state warn" }, `for ${duration(left)}`);
  return el("span", { class: "state good" }, "valid");
}

function usage(n, limit) {
  if (!limit) return count(n);
  const fill = el("span", { class: n >= limit ? "fill full" : "fill" });
  fill.style.width = `${Math.min(100, (n / limit) * 100)}%`;
  return el("span", { class: "usage" }, `${count(n)} of ${count(limit)}`, el("span", { class: "track", "aria-hidden": "true" }, fill));
}

function minute(limits) {
  const parts = [];
  if (limits?.requests_per_minute) parts.push(`${count(limits.requests_per_minute)} requests`);
  if (limits?.tokens_per_minute) parts.push(`${count(limits.tokens_per_minute)} tokens`);
  return parts.join(", ") || "none";
}

function rows(id, columns, list, empty) {
  const head = byId(`${id}-head`);
  if (head.childElementCount === 0) head.append(el("tr", {}, ...columns.map(([name, , kind]) => el("th", { scope: "col", class: kind }, name))));
  const body = list.map((one) => el("tr", {}, ...columns.map(([, cell, kind]) => el("td", { class: kind }, cell(one)))));
  byId(id).replaceChildren(...(body.length > 0 ? body : [el("tr", {}, el("td", { class: "none", colspan: columns.length }, empty))]));
}

byId("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("gate-key").value.trim(), byId("gate-remember").checked);
  byId("gate-key").value = "";
  ask();
});
byId("forget").addEventListener("click", () => {
  key.forget();
  ask();
});
document.addEventListener("visibilitychange", ask);
themeButton(byId("theme"));
ask();
