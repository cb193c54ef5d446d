// What both pages use: making elements, the theme, formats, the clipboard, storage, announcements.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element with attributes, listeners (`onclick: f`) and children. Strings become text, never markup. */
export const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);

/** The same for drawings. */
export const svg = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** One of the page's symbols. Hidden from screen readers: the button around it has the name. */
export const icon = (name) => svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

/** A button with a symbol and a name that is read out and shown when pointed at. */
export const iconButton = (name, label, onclick) =>
  el("button", { type: "button", class: "quiet square", "aria-label": label, title: label, onclick }, icon(name));

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTH = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** 12,345 */
export const count = (n) => NUMBER.format(n ?? 0);

/** 12,345 or 12.3: one decimal while it says something. */
export const rate = (n) => (n >= 100 ? NUMBER : TENTH).format(n);

/** 84 ms, 1.2 s */
export const millis = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${TENTH.format(ms / 1000)} s`);

/** 0.3 %, 12.4 %, 100 % */
export function percent(part) {
  const p = part * 100;
  if (p > 0 && p < 0.1) return "< 0.1 %";
  return p > 99.95 ? "100 %" : `${TENTH.format(p)} %`;
}

/** 92 MiB */
export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; n >= 1024 && unit < units.length - 1; unit++) n /= 1024;
  return `${n >= 100 || unit === 0 ? Math.round(n) : TENTH.format(n)} ${units[unit]}`;
}

/** 3 d 4 h, 5 min 2 s: the two greatest units. */
export function duration(seconds) {
  let left = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    if (left >= size || (size === 1 && parts.length === 0)) parts.push(`${Math.floor(left / size)} ${name}`);
    left %= size;
  }
  return parts.slice(0, 2).join(" ");
}

/** 1 token, 2 tokens */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Reads and writes JSON in the browser's storage, which may be full or forbidden. */
export const store = {
  get(name, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(name)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  /** False when it could not be kept. */
  set(name, value) {
    try {
      localStorage.setItem(name, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
};

/** Says something to screen readers; old lines are dropped. */
export function announce(text) {
  const live = byId("live");
  if (!live || !text.trim()) return;
  live.append(el("p", {}, text));
  while (live.childElementCount > 12) live.firstElementChild.remove();
}

/** Copies and says so on the button. */
export async function copy(text, button) {
  const good = await navigator.clipboard?.writeText(text).then(() => true, () => false) || copyBySelection(text);
  const said = good ? "Copied" : "Could not copy";
  announce(said);
  const label = button?.querySelector(".text");
  if (!label || button.dataset.label) return;
  button.dataset.label = label.textContent;
  label.textContent = said;
  setTimeout(() => {
    label.textContent = button.dataset.label;
    delete button.dataset.label;
  }, 1500);
}

/** For pages that come over plain HTTP from another machine, where browsers give no clipboard. */
function copyBySelection(text) {
  const box = el("textarea", { class: "hidden-text", "aria-hidden": "true" });
  const before = document.activeElement;
  box.value = text;
  document.body.append(box);
  box.select();
  const good = document.execCommand("copy");
  box.remove();
  before?.focus();
  return good;
}

const THEMES = { auto: "as the system", light: "light", dark: "dark" };
const THEME = "verve.theme";

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

applyTheme(store.get(THEME, "auto"));

/** The button that goes through the themes. */
export function themeButton(button) {
  const show = (theme) => {
    applyTheme(theme);
    button.replaceChildren(icon(theme));
    button.title = `Colours: ${THEMES[theme]}`;
    button.setAttribute("aria-label", button.title);
  };
  let theme = store.get(THEME, "auto");
  if (!(theme in THEMES)) theme = "auto";
  show(theme);
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    store.set(THEME, theme);
    show(theme);
    announce(button.title);
  });
}

/** Makes a tab list work with the arrow keys; `onchange(id)` gets the tab shown. Gives a function that shows a tab. */
export function tabs(list, onchange) {
  const all = [...list.querySelectorAll('[role="tab"]')];
  const show = (tab) => {
    for (const other of all) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    onchange?.(tab.id);
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) show(tab);
  });
  list.addEventListener("keydown", (event) => {
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const tab = all[(to + all.length) % all.length];
    show(tab);
    tab.focus();
  });
  return (id) => show(byId(id));
}
