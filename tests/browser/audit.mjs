// What can be measured of a page's looks and access: contrast, names, cut-off text.

import assert from "node:assert/strict";

/** All visible text has the contrast that WCAG 2 AA asks for: 4.5, or 3 where it is large. Gives the least found. */
export async function contrast(page, where) {
  const { worst, bad } = await page.evaluate(measureContrast);
  assert.deepEqual(bad, [], `too little contrast, ${where}`);
  return worst;
}

function measureContrast() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) known.set(colour, parsed(colour));
    return known.get(colour);
  };
  const parsed = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, ground) => [...[0, 1, 2].map((at) => top[at] * top[3] + ground[at] * (1 - top[3])), 1];
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      layers.push(rgba(getComputedStyle(at).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((part) => (part / 255 <= 0.03928 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const bad = [];
  let worst = 21;
  const judge = (node, style, text) => {
    const below = ground(node);
    const found = ratio(over(rgba(style.color), below), below);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    worst = Math.min(worst, found);
    if (found < (large ? 3 : 4.5)) bad.push(`${found.toFixed(2)}: ${node.tagName.toLowerCase()}.${node.className} “${text.trim().slice(0, 40)}”`);
  };
  for (const node of document.querySelectorAll("body *")) {
    if (!node.checkVisibility({ visibilityProperty: true }) || node.closest("svg, option, :disabled, .stale, .hidden-text, .skip")) continue;
    const text = [...node.childNodes].filter((child) => child.nodeType === Node.TEXT_NODE).map((child) => child.data).join("");
    const style = getComputedStyle(node);
    if (text.trim() || node.value) judge(node, style, text || String(node.value));
    if (node.placeholder && !node.value) judge(node, getComputedStyle(node, "::placeholder"), node.placeholder);
  }
  return { worst, bad };
}

/** Every control has a name to be read out, and no id is used twice. */
export async function names(page) {
  const bad = await page.evaluate(() => {
    const found = [];
    for (const node of document.querySelectorAll("button, a, input, select, textarea, [role=tab], [role=tabpanel], [role=group]")) {
      const labelled = node.getAttribute("aria-labelledby");
      const name = node.getAttribute("aria-label") || (labelled && document.getElementById(labelled)?.textContent) || [...(node.labels ?? [])].map((label) => label.textContent).join("") || (/^(BUTTON|A)$/.test(node.tagName) && node.textContent);
      if (!name?.trim()) found.push(node.outerHTML.slice(0, 120));
    }
    const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
    found.push(...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => `twice: ${id}`));
    return found;
  });
  assert.deepEqual(bad, [], "controls without a name, or ids used twice");
}

/** Nothing reaches over the sides of the window, and no button's or label's text is cut off. */
export async function fits(page, where) {
  const bad = await page.evaluate(() => {
    const found = [];
    const wide = document.scrollingElement.scrollWidth;
    if (wide > innerWidth) found.push(`the page is ${wide} wide in a window of ${innerWidth}`);
    for (const node of document.querySelectorAll("body *")) {
      if (!node.checkVisibility() || node.closest(".table, .hidden-text, .symbols, .skip, .tabs, pre, textarea")) continue;
      const { left, right, width } = node.getBoundingClientRect();
      if (width > 0 && (left < -1 || right > innerWidth + 1)) found.push(`${Math.round(left)}..${Math.round(right)}: ${node.outerHTML.slice(0, 100)}`);
      if (/^(BUTTON|LABEL|SUMMARY)$/.test(node.tagName) && !node.classList.contains("entry") && node.scrollWidth > node.clientWidth + 1 && node.clientWidth > 0) found.push(`cut off: ${node.outerHTML.slice(0, 100)}`);
    }
    for (const node of document.querySelectorAll(".chip-token, .card, .message, .field, .tile, .error")) {
      if (node.checkVisibility() && (node.scrollHeight > node.clientHeight + 1 || node.scrollWidth > node.clientWidth + 1)) found.push(`overflows: ${node.outerHTML.slice(0, 100)}`);
    }
    return found;
  });
  assert.deepEqual(bad, [], `something does not fit, ${where}`);
}

/** What has the focus shows it. */
export async function focusShows(page) {
  const look = await page.evaluate(() => {
    const node = document.activeElement;
    const { outlineStyle, outlineWidth } = getComputedStyle(node);
    return { shown: outlineStyle !== "none" && parseFloat(outlineWidth) > 0, html: node.outerHTML.slice(0, 100) };
  });
  assert.ok(look.shown, `the focus cannot be seen on ${look.html}`);
}
