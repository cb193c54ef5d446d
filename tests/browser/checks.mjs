// The checks, in the order in which they run. Each gets `{session, open, shot}` and may give a line to print.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { contrast, fits, focusShows, names } from "./audit.mjs";

const PROMPT = "Once upon a time, there was a";

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function json(session, path, body, status = 200) {
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(session.base + path, { method, headers: { "content-type": "application/json" }, body: body && JSON.stringify(body) });
  assert.equal(response.status, status, `${method} ${path}`);
  return response.json();
}

async function model(session) {
  return (await json(session, "/v1/models")).data[0].id;
}

/** Whether the model has a chat template: one trained in a few seconds has none. */
async function chats(session) {
  const body = { model: await model(session), messages: [{ role: "user", content: "Hello" }] };
  const response = await fetch(`${session.base}/apply-template`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  return response.ok;
}

const NO_CHAT = "passed over: this model has no chat template";

const OTHERS = "passed over: this needs a server of our own";

const done = (page) => page.waitForFunction(() => !document.body.classList.contains("running"), null, { timeout: 60_000 });

/** Settings without mouse work: written into the fields as a person would. */
async function set(page, values) {
  await page.click("#tab-settings");
  for (const [name, value] of Object.entries(values)) {
    const field = page.locator(`#set-${name}`);
    await page.evaluate((id) => document.getElementById(id).closest("details")?.setAttribute("open", ""), `set-${name}`);
    if (typeof value === "boolean") await field.setChecked(value);
    else if (name === "format") await field.selectOption(value);
    else await field.fill(String(value));
  }
}

async function complete(page, prompt, values = { temperature: 0, max_tokens: 24 }) {
  await set(page, values);
  await page.fill("#prompt", prompt);
  await page.click("#completion .run");
  await page.waitForSelector(".card");
  await done(page);
  for (const words of await page.locator(".error .words").allInnerTexts()) assert.fail(words);
  return answer(page.locator("#completion-answers"));
}

/** The text of an answer without the mark of the token that ended it. */
const answer = (place, at = 0) =>
  place.locator(".answer").nth(at).evaluate((node) => [...node.childNodes].filter((child) => !child.classList?.contains("end")).map((child) => child.textContent).join(""));

async function say(page, text) {
  await page.fill("#message", text);
  await page.click("#chat .run");
  await page.waitForSelector("#chat .message.assistant");
  await done(page);
}

export const checks = {
  async "headers: a strict policy, no outside resource"({ session }) {
    for (const path of ["/", "/admin", "/assets/main.js", "/assets/style.css"]) {
      const response = await fetch(session.base + path);
      assert.equal(response.status, 200, path);
      const policy = response.headers.get("content-security-policy") ?? "";
      for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]) assert.ok(policy.includes(part), `${path}: ${part} is not in “${policy}”`);
      assert.ok(!/unsafe|\*|https?:/.test(policy), policy);
      const text = await response.text();
      assert.ok(!/(?:src|href)="(?:https?:)?\/\//.test(text), `${path} names an outside resource`);
      assert.ok(!/<script(?![^>]*src=)|<style|\sstyle=|\son\w+="/.test(text), `${path} has an inline script or style`);
    }
    assert.equal((await fetch(`${session.base}/assets/..%2fadmin.html`)).status, 404);
    assert.equal((await fetch(`${session.base}/assets/nothing.js`)).status, 404);
  },

  async "parts: streams and tokens cut anywhere give the same"({ open }) {
    const page = await open();
    const bad = await page.evaluate(async () => {
      const { events } = await import("/assets/api.js");
      const { Answer, tokensOf } = await import("/assets/tokens.js");
      const bad = [];
      let state = 7;
      const random = (n) => (state = (state * 48271) % 2147483647) % n;
      const pieces = (bytes, most) => {
        const parts = [];
        for (let at = 0; at < bytes.length; ) parts.push(bytes.slice(at, (at += 1 + random(most))));
        return parts;
      };
      const encode = (text) => new TextEncoder().encode(text);
      const same = (name, found, wanted) => JSON.stringify(found) === JSON.stringify(wanted) || bad.push(`${name}: ${JSON.stringify(found)} and not ${JSON.stringify(wanted)}`);

      for (const end of ["\n", "\r\n", "\r"]) {
        const text = [": a comment", "", "data: one", "data:two  ", "id: 5", "", "event: x", 'data: {"a": "ü🙂"}', "", "", "data", "", "data: not ended"].join(end);
        for (let round = 0; round < 50; round++) {
          const body = new ReadableStream({ start: (to) => (pieces(encode(text), 9).forEach((part) => to.enqueue(part)), to.close()) });
          const found = [];
          for await (const data of events(body)) found.push(data);
          same("events", found, ["one\ntwo  ", '{"a": "ü🙂"}']);
        }
      }

      for (let round = 0; round < 400; round++) {
        const bytes = encode("Grüße aus 北京, 🙂🙃 and\n<b>more</b>…");
        // Half of the time with bytes that are no UTF-8.
        for (let n = round % 2 ? 8 : 0; n > 0; n--) bytes[random(bytes.length)] = 128 + random(128);
        const text = new TextDecoder().decode(bytes);
        const tokens = pieces(bytes, 5).map((bytes) => ({ text: "?", bytes, logprob: -1, top: [] }));
        const answer = new Answer("test");
        const letters = [...text];
        const left = [...tokens];
        while (letters.length > 0 || left.length > 0) {
          answer.append(letters.splice(0, random(6)).join(""), left.splice(0, random(4)));
          same("text so far", answer.node.textContent, answer.text);
        }
        answer.finish();
        same("whole text", answer.node.textContent, text);
        const spans = [...answer.node.querySelectorAll(".tok")];
        same("spans cover it", spans.map((span) => span.textContent).join(""), text);
        if (!text.includes("\ufffd") && spans.some((span) => span.textContent.includes("\ufffd"))) bad.push("a character was cut");
        if (spans.length > tokens.length) bad.push("more spans than tokens");
      }

      const made = (text, words, end = true) => {
        const answer = new Answer("test");
        answer.append(text, words.map((word) => ({ text: word, bytes: encode(word), logprob: -1, top: [] })));
        if (end) answer.finish();
        return [...answer.node.childNodes].filter((node) => node.textContent).map((node) => (node.className ? `[${node.textContent}]` : node.textContent)).join("");
      };
      same("cut by a stop string", made("Hello wor", ["Hello", " world"]), "[Hello][ wor]");
      same("a token that ends the text", made("Hi", ["Hi", "<|im_end|>"]), "[Hi][<|im_end|>]");
      same("text without its token", made("Hello world", ["Hello"], false), "[Hello] world");
      same("other text than the tokens say", made("Hello world", ["Hello", " there"]), "[Hello] world");
      same("a space that the text has not", made("Hello world", [" Hello", " world"]), "[Hello][ world]");

      const old = tokensOf({ token_ids: [3, 4], logprobs: { tokens: ["a", "bytes:\\xe2\\x82"], token_logprobs: [-0.1, -2], top_logprobs: [{ a: -0.1, b: -3 }, null] } });
      same("completions", old.map(({ id, bytes, top }) => [id, [...bytes], top.length]), [[3, [97], 2], [4, [0xe2, 0x82], 0]]);
      const chat = tokensOf({ logprobs: { content: [{ token: "x", bytes: [0xf0, 0x9f], logprob: -1, top_logprobs: [{ token: "y", logprob: -2 }, { token: "x", logprob: -1 }] }] } });
      same("chat", chat.map(({ id, bytes, top }) => [id ?? null, [...bytes], top.map(({ text }) => text)]), [[null, [0xf0, 0x9f], ["x", "y"]]]);
      return bad.slice(0, 10);
    });
    assert.deepEqual(bad, []);
  },

  async "generate: the text comes as a stream, with measures"({ session, open }) {
    const page = await open();
    await set(page, { temperature: 0, max_tokens: 24 });
    await page.fill("#prompt", PROMPT);
    await page.click("#completion .run");
    await page.waitForSelector(".tok");
    await done(page);
    const text = await answer(page.locator("#completion-answers"));
    const body = { model: await model(session), prompt: PROMPT, temperature: 0, max_tokens: 24 };
    const { choices, usage } = await json(session, "/v1/completions", body);
    assert.equal(text, choices[0].text, "the page's text is the answer's");
    const stats = await page.locator(".stats").textContent();
    assert.match(stats, new RegExp(`\\b${usage.completion_tokens} tokens · [\\d.,]+ tokens/s · first token after [\\d.]+ m?s`));
    assert.match(stats, new RegExp(`prompt of ${usage.prompt_tokens} tokens`));
    assert.match(stats, /^Server: first token after .* tokens\/s/m);
    assert.match(await page.locator("#live").textContent(), /Generating\..*Done\./s, "screen readers hear of it");
    return JSON.stringify(text.slice(0, 50));
  },

  async "stop: Esc ends it here and in the server"({ session, open }) {
    const page = await open();
    await set(page, { max_tokens: 3000, ignore_eos: true });
    await page.fill("#prompt", PROMPT);
    await page.keyboard.press("Control+Enter");
    await page.waitForFunction(() => document.querySelectorAll(".tok").length > 5);
    assert.equal(await page.locator("#completion .run").innerText().then((text) => text.split("\n")[0].trim()), "Stop");
    await page.keyboard.press("Escape");
    await done(page);
    const text = await answer(page.locator("#completion-answers"));
    assert.match(await page.locator(".stats").textContent(), /^stopped by you/);
    await sleep(1000);
    assert.equal(await answer(page.locator("#completion-answers")), text, "nothing comes after it");
    const { models, recent } = await json(session, "/admin/status");
    assert.equal(models.reduce((sum, { running, waiting }) => sum + running + waiting, 0), 0, "the server has stopped too");
    const shown = await page.locator(".tok").count();
    const [{ status, completion_tokens: made }] = recent;
    assert.equal(status, "cancelled");
    assert.ok(made < Math.min(shown + 500, 2900), `${made} tokens were made, ${shown} were shown`);
    return `${made} tokens were made, ${shown} were shown`;
  },

  async "cleared or restored while an answer comes: nothing is mixed up"({ session, open }) {
    const page = await open();
    const first = await complete(page, PROMPT, { temperature: 0, max_tokens: 8 });
    await set(page, { max_tokens: 1000, ignore_eos: true });
    await page.click("#tab-history");
    await page.fill("#prompt", "Another text");
    await page.click("#completion .run");
    await page.waitForSelector(".tok");
    await page.locator(".entry").last().click();
    await page.waitForFunction((text) => document.querySelector("#prompt").value === text, PROMPT);
    await done(page);
    assert.equal(await answer(page.locator("#completion-answers")), first);
    assert.equal(await page.locator(".card .stats").textContent().then((text) => /stopped by you/.test(text)), false);
    if (!(await chats(session))) return NO_CHAT;
    await page.click("#mode-chat");
    await set(page, { max_tokens: 1000, ignore_eos: true });
    await page.fill("#message", "Tell me a long story.");
    await page.click("#chat .run");
    await page.waitForSelector("#chat .tok");
    await page.click("#chat-clear");
    await page.waitForFunction(() => document.querySelectorAll("#chat .message").length === 0);
    await done(page);
    assert.equal(await page.inputValue("#message"), "");
  },

  async "probabilities: on hover and on focus, with the alternatives"({ session, open, shot }) {
    const page = await open();
    await complete(page, PROMPT);
    const tip = page.locator("#tip");
    assert.equal(await tip.isVisible(), false);
    await page.locator(".tok").nth(3).hover();
    await tip.waitFor({ state: "visible" });
    const body = { model: await model(session), prompt: PROMPT, temperature: 0, max_tokens: 24, logprobs: 5 };
    const { choices } = await json(session, "/v1/completions", body);
    const { top_logprobs: top, token_logprobs: of } = choices[0].logprobs;
    assert.match(await tip.innerText(), new RegExp(`log-probability ${of[3].toFixed(3)}`), "the server's number");
    assert.ok((await tip.locator("li").count()) >= Object.keys(top[3]).length, "each alternative has a line");
    assert.equal(await tip.locator(".taken").count(), 1);
    const sum = await tip.locator(".much").allInnerTexts().then((all) => all.reduce((total, text) => total + parseFloat(text.replace("<", "")), 0));
    assert.ok(Math.abs(sum - 100) < 1, `the lines add up to ${sum} %`);
    await shot(page, "probabilities");
    await page.mouse.move(5, 5);
    await tip.waitFor({ state: "hidden" });
    await page.locator(".tok").first().focus();
    await tip.waitFor({ state: "visible" });
    await page.keyboard.press("ArrowRight");
    assert.match(await tip.innerText(), new RegExp(`log-probability ${of[1].toFixed(3)}`));
    await page.keyboard.press("End");
    await page.keyboard.press("Home");
    assert.match(await tip.innerText(), new RegExp(`log-probability ${of[0].toFixed(3)}`));
    await page.keyboard.press("Escape");
    await tip.waitFor({ state: "hidden" });
    await set(page, { tint: true });
    assert.equal(await page.evaluate(() => document.body.classList.contains("tinted")), true);
    await contrast(page, "tinted");
    await set(page, { probabilities: false });
    await complete(page, PROMPT);
    assert.equal(await page.locator(".tok").count(), 0, "without log-probabilities the text is plain");
    assert.equal(await answer(page.locator("#completion-answers")), choices[0].text);
  },

  async "several answers, stop strings, settings that are sent"({ open }) {
    const page = await open();
    const sent = page.waitForRequest((request) => request.url().endsWith("/v1/completions"));
    await complete(page, PROMPT, { temperature: 0.7, max_tokens: 12, top_k: 40, min_p: 0.05, repetition_penalty: 1.1, seed: 5, n: 3, stop: "\\n\\n\nThe end", logit_bias: "5: -100" });
    const body = (await sent).postDataJSON();
    const asked = { temperature: 0.7, max_tokens: 12, top_k: 40, min_p: 0.05, repetition_penalty: 1.1, seed: 5, n: 3, stop: ["\n\n", "The end"], logit_bias: { 5: -100 } };
    for (const [name, value] of Object.entries(asked)) assert.deepEqual(body[name], value, name);
    for (const name of ["top_p", "typical_p", "mirostat_tau", "dry_base", "json_schema"]) assert.ok(!(name in body), `${name} is at its default and is not sent`);
    assert.equal(await page.locator(".card").count(), 3);
    for (const node of await page.locator(".card .stats").all()) assert.match(await node.textContent(), /ended by itself|reached max tokens/);
    await page.getByRole("button", { name: "Reset all" }).click();
    assert.equal(await page.inputValue("#set-temperature"), "1");
    assert.equal(await page.inputValue("#set-n"), "1");
    assert.equal(await page.locator(".field.changed").count(), 0);
    await page.locator(".card").first().getByRole("button", { name: "Go on from here" }).click();
    assert.ok((await page.inputValue("#prompt")).startsWith(PROMPT));
  },

  async "chat: a conversation, edited, sent again, answered again, cleared"({ session, open }) {
    if (!(await chats(session))) return NO_CHAT;
    const page = await open();
    await page.click("#mode-chat");
    await set(page, { temperature: 0, max_tokens: 24 });
    await page.locator("#system-fold summary").click();
    await page.fill("#system", "You answer in one short sentence.");
    await say(page, "What is the capital of France?");
    const messages = page.locator("#chat .message");
    assert.equal(await messages.count(), 2);
    const first = await answer(page.locator("#chat .message.assistant"));
    const asked = [{ role: "system", content: "You answer in one short sentence." }, { role: "user", content: "What is the capital of France?" }];
    const { choices } = await json(session, "/v1/chat/completions", { model: await model(session), messages: asked, temperature: 0, max_completion_tokens: 24 });
    assert.equal(first, choices[0].message.content);
    assert.ok((await page.locator("#chat .tok").count()) > 2, "tokens can be looked at");
    await say(page, "And of Italy?");
    assert.equal(await messages.count(), 4);
    await messages.nth(3).getByRole("button", { name: "Answer again" }).click();
    await page.waitForSelector("body.running");
    await done(page);
    assert.equal(await messages.count(), 4);
    await messages.nth(0).getByRole("button", { name: "Edit" }).click();
    await messages.nth(0).locator("textarea").fill("What is the capital of Spain?");
    await messages.nth(0).getByRole("button", { name: "Send again from here" }).click();
    await page.waitForSelector("body.running");
    await done(page);
    assert.equal(await messages.count(), 2, "what came after is gone");
    assert.match(await messages.nth(0).innerText(), /Spain/);
    await page.click("#tab-history");
    assert.equal(await page.locator(".entry").count(), 1, "a conversation is one entry");
    await page.click("#chat-clear");
    assert.equal(await messages.count(), 0);
    return JSON.stringify(first.slice(0, 60));
  },

  async "exact prompt: text, tokens and ids as the model reads them"({ session, open, shot }) {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    await complete(page, "Hello,  wörld 🙂\nnew line", { temperature: 0, max_tokens: 4 });
    await page.click("#tab-prompt");
    await page.waitForSelector(".chip-token");
    const name = await model(session);
    const { tokens } = await json(session, "/tokenize", { model: name, prompt: "Hello,  wörld 🙂\nnew line" });
    assert.deepEqual(await page.locator(".chip-token .id").allInnerTexts(), tokens.map(String));
    await page.getByText("The last request was read as exactly these tokens.").waitFor();
    if (!(await chats(session))) return NO_CHAT;
    await page.click("#mode-chat");
    await page.fill("#message", "Hello there");
    const { tokens: ids } = await json(session, "/apply-template", { model: name, messages: [{ role: "user", content: "Hello there" }], add_generation_prompt: true });
    await page.waitForFunction((wanted) => [...document.querySelectorAll(".chip-token .id")].map((node) => node.textContent).join(" ") === wanted, ids.join(" "));
    await shot(page, "exact-prompt");
    await page.getByRole("button", { name: "Copy text" }).click();
    const { prompt } = await json(session, "/apply-template", { model: name, messages: [{ role: "user", content: "Hello there" }] });
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), prompt);
    await page.click("#chat .run");
    await page.waitForSelector("#chat .message.assistant");
    await done(page);
    await page.getByText("The last request was read as exactly these tokens.").waitFor();
    return `${ids.length} tokens with the template`;
  },

  async "JSON by a schema: the answer parses; a bad schema is caught in the page"({ session, open }) {
    const page = await open();
    const schema = { type: "object", properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 120 } }, required: ["name", "age"], additionalProperties: false };
    const values = { format: "schema", schema: JSON.stringify(schema), max_tokens: 120, temperature: 0.8, seed: 3 };
    const text = await complete(page, "A person as JSON: ", values);
    const person = JSON.parse(text);
    assert.deepEqual(Object.keys(person).sort(), ["age", "name"]);
    assert.ok(Number.isInteger(person.age));
    await set(page, { schema: "{ not JSON" });
    await page.click("#completion .run");
    await page.locator(".error .words").getByText("JSON schema: this is not JSON.").waitFor();
    await page.getByRole("button", { name: "Show the setting" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "set-schema");
    await set(page, { format: "regex", regex: "(red|green|blue)" });
    assert.match(await complete(page, "My favourite colour is ", { max_tokens: 30 }), /^(red|green|blue)$/);
    if (!(await chats(session))) return text;
    await page.click("#mode-chat");
    await set(page, { format: "schema", schema: JSON.stringify(schema), max_tokens: 120 });
    await say(page, "Invent a person. Answer in JSON.");
    JSON.parse(await answer(page.locator("#chat .message.assistant")));
    return text;
  },

  async "errors: in the server's words, with the way to the setting"({ session, open, shot }) {
    const page = await open({ refusals: true });
    await set(page, { mirostat_tau: 5, top_k: 40 });
    await page.fill("#prompt", PROMPT);
    await page.click("#completion .run");
    await page.waitForSelector(".error");
    const body = { model: await model(session), prompt: PROMPT, mirostat_tau: 5, top_k: 40 };
    const { error } = await json(session, "/v1/completions", body, 400);
    assert.equal(await page.locator(".error .words").innerText(), error.message);
    const facts = await page.locator(".error .facts").innerText();
    assert.ok(facts.includes("400") && facts.includes(error.type), facts);
    await shot(page, "error");
    if (error.param) {
      await page.getByRole("button", { name: "Show the setting" }).click();
      assert.equal(await page.evaluate(() => document.activeElement.id), `set-${error.param}`);
    }
    await contrast(page, "error");
    assert.equal(await page.inputValue("#prompt"), PROMPT, "the prompt is still there");
    if (await chats(session)) {
      await page.click("#mode-chat");
      await page.fill("#message", "Hello");
      await page.click("#chat .run");
      await page.waitForSelector(".error");
      await done(page);
      assert.equal(await page.inputValue("#message"), "Hello", "the message can be sent again");
    }
    return error.message;
  },

  async "code: what is copied asks for the same"({ session, open }) {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    const prompt = "It's a \"quoted\" $HOME `text` \\ with\nlines, 'and' more:";
    const text = await complete(page, prompt, { temperature: 0, max_tokens: 12, top_k: 3, stop: "'''" });
    await page.click("#tab-code");
    const codes = {};
    for (const name of ["curl", "Python", "JavaScript"]) {
      await page.getByRole("tab", { name, exact: true }).click();
      await page.locator("#panel-code").getByRole("button", { name: "Copy" }).click();
      await page.getByText("Copied").first().waitFor();
      codes[name] = await page.evaluate(() => navigator.clipboard.readText());
      await sleep(1600);
    }
    const notes = [];
    const curl = spawnSync("bash", ["-c", codes.curl], { encoding: "utf8", env: { ...process.env, VERVE_API_KEY: "none" } });
    if (curl.error || curl.status === 127) notes.push("no curl here");
    else {
      const events = [...curl.stdout.matchAll(/^data: (\{.*)$/gm)].map((line) => JSON.parse(line[1]));
      assert.equal(events.map(({ choices }) => choices[0]?.text ?? "").join(""), text);
    }
    const folder = session.folder;
    writeFileSync(join(folder, "code.mjs"), codes.JavaScript);
    const node = spawnSync(process.execPath, ["--check", join(folder, "code.mjs")], { encoding: "utf8" });
    assert.equal(node.status, 0, node.stderr);
    writeFileSync(join(folder, "code.py"), codes.Python);
    const python = spawnSync("python3", ["-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())", join(folder, "code.py")], { encoding: "utf8" });
    if (python.error) notes.push("no Python here");
    else assert.equal(python.status, 0, python.stderr);
    return notes.join(", ");
  },

  async "history: survives a reload, is restored, exported and deleted"({ open }) {
    const page = await open();
    const first = await complete(page, PROMPT, { temperature: 0, max_tokens: 16, top_k: 7 });
    await complete(page, "The weather today is", { temperature: 0.5, max_tokens: 8 });
    await page.reload();
    await page.waitForSelector("#model:not([disabled])");
    assert.equal(await page.inputValue("#prompt"), "The weather today is", "the draft survives");
    assert.equal(await page.inputValue("#set-temperature"), "0.5");
    await page.click("#tab-history");
    assert.equal(await page.locator(".entry").count(), 2);
    await page.locator(".entry").nth(1).click();
    assert.equal(await page.inputValue("#prompt"), PROMPT);
    assert.equal(await answer(page.locator("#completion-answers")), first);
    assert.equal(await page.inputValue("#set-top_k"), "7");
    assert.equal(await page.inputValue("#set-temperature"), "0");
    const download = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export" }).click();
    const exported = JSON.parse(readFileSync(await (await download).path(), "utf8"));
    assert.equal(exported.length, 2);
    assert.equal(exported[1].state.prompt, PROMPT);
    await page.getByRole("button", { name: /^Delete “/ }).first().click();
    assert.equal(await page.locator(".entry").count(), 1);
    await page.getByRole("button", { name: "Delete all" }).click();
    assert.equal(await page.locator(".entry").count(), 0);
    assert.equal(await page.evaluate(() => localStorage.getItem("verve.history")), "[]");
  },

  async "key: kept for the tab, or remembered; sent; never in the history"({ open }) {
    const page = await open();
    const enter = async (remember) => {
      await page.click("#key-button");
      await page.fill("#key-input", "secret-key-1234");
      await page.setChecked("#key-remember", remember);
      await page.getByRole("button", { name: "Use this key" }).click();
      await page.locator("#key-dialog").waitFor({ state: "hidden" });
    };
    const stored = () => page.evaluate(() => [sessionStorage.getItem("verve.key"), localStorage.getItem("verve.key")]);
    const asked = page.waitForRequest((request) => request.url().endsWith("/v1/models"));
    await enter(false);
    assert.equal((await asked).headers().authorization, "Bearer secret-key-1234");
    assert.deepEqual(await stored(), ["secret-key-1234", null]);
    await enter(true);
    assert.deepEqual(await stored(), [null, "secret-key-1234"]);
    await page.click("#tab-code");
    assert.ok(!(await page.locator("#code").innerText()).includes("secret"), "not in the code either");
    await page.click("#key-button");
    await page.getByRole("button", { name: "Forget it" }).click();
    assert.deepEqual(await stored(), [null, null]);
  },

  async "text is text: markup in prompts and answers does nothing"({ session, open }) {
    const page = await open();
    const evil = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>';
    await complete(page, evil, { temperature: 0, max_tokens: 30, format: "regex", regex: "<b>bold</b>" });
    assert.equal(await answer(page.locator("#completion-answers")), "<b>bold</b>");
    await page.click("#tab-prompt");
    await page.waitForSelector(".chip-token");
    await page.click("#tab-history");
    assert.match(await page.locator(".entry .title").first().innerText(), /^<img/);
    if (await chats(session)) {
      await page.click("#mode-chat");
      await set(page, { format: "text" });
      await say(page, evil);
      assert.match(await page.locator("#chat .message.user .answer").innerText(), /^<img/);
    }
    assert.equal(await page.locator("main img, main script, main b").count(), 0);
    assert.equal(await page.title(), "verve playground");
  },

  async "keyboard only: the whole way, and the focus is always seen"({ open }) {
    const page = await open();
    const press = (name) => page.keyboard.press(name);
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.textContent);
    const tabTo = async (wanted, most = 60) => {
      for (let n = 0; n < most; n++) {
        await press("Tab");
        if (await page.evaluate((selector) => document.activeElement.matches(selector), wanted)) return focusShows(page);
        if (await page.evaluate(() => document.activeElement !== document.body)) await focusShows(page);
      }
      assert.fail(`Tab does not come to ${wanted}; it is on ${await focused()}`);
    };
    await press("Tab");
    assert.equal(await focused(), "skip");
    await press("Enter");
    await tabTo("#prompt");
    await page.keyboard.type("Once upon a time");
    await press("Control+Enter");
    await page.waitForSelector(".tok");
    await press("Escape");
    await done(page);
    assert.equal(await focused(), "prompt", "the focus has stayed where it was");
    await tabTo(".tok");
    await page.locator("#tip").waitFor({ state: "visible" });
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-describedby")), "tip");
    await press("ArrowRight");
    await press("ArrowDown");
    await press("ArrowUp");
    await press("Escape");
    await page.locator("#tip").waitFor({ state: "hidden" });
    await tabTo("#tab-settings", 5);
    for (const id of ["tab-prompt", "tab-code", "tab-history", "tab-settings"]) {
      await press("ArrowRight");
      assert.equal(await focused(), id);
    }
    await tabTo("#set-temperature", 3);
    await press("ArrowUp");
    await tabTo("details.group > summary");
    await press("Enter");
    await tabTo("#set-top_k", 3);
    await page.keyboard.type("40");
    await page.locator("#prompt").focus();
    for (let n = 0; n < 12 && (await focused()) !== "mode-chat"; n++) await press("Shift+Tab");
    await press("Enter");
    await tabTo("#message");
    await page.keyboard.type("Hello");
    assert.equal(await page.inputValue("#message"), "Hello");
    await press("Shift+Tab");
    await page.locator("#theme").focus();
    await press("Enter");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "light");
  },

  async "themes: as the system, light, dark; kept; motion reduced on request"({ open }) {
    const page = await open({ scheme: "dark", reducedMotion: "reduce" });
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const dark = await ground();
    await page.click("#theme");
    const light = await ground();
    assert.notEqual(light, dark);
    await page.click("#theme");
    assert.equal(await ground(), dark);
    assert.equal(await page.getAttribute("#theme", "aria-label"), "Colours: dark");
    await page.reload();
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    await page.emulateMedia({ colorScheme: "light" });
    assert.equal(await ground(), dark, "the choice goes before the system's");
    await page.evaluate(() => document.body.append(Object.assign(document.createElement("div"), { className: "growing", innerHTML: '<div class="answer"></div>' })));
    assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector(".growing .answer"), "::after").animationName), "none");
  },

  async "looks: both themes, phone to wide: contrast, names, nothing cut off"({ session, open, shot }) {
    const chat = await chats(session);
    let worst = 21;
    for (const scheme of ["light", "dark"]) {
      for (const [size, width, height] of [["phone", 390, 844], ["small-phone", 360, 640], ["tablet", 820, 1100], ["wide", 1360, 860], ["low", 1100, 480], ["very-wide", 1920, 1080]]) {
        const page = await open({ scheme, width, height, reducedMotion: "reduce" });
        const look = async (part, more) => {
          const where = `${part}, ${size}, ${scheme}`;
          worst = Math.min(worst, await contrast(page, where));
          await fits(page, where);
          await shot(page, `${size}-${scheme}-${part}`, more);
        };
        const whole = { fullPage: width < 960 };
        await look("1-empty");
        await names(page);
        await complete(page, PROMPT, { temperature: 0.9, seed: 11, max_tokens: 60, tint: true, n: width > 1000 ? 2 : 1 });
        await page.locator(".tok").nth(6).hover();
        await look("2-completion");
        await page.mouse.move(2, 2);
        await page.evaluate(() => document.querySelectorAll("details.group").forEach((fold) => (fold.open = true)));
        await set(page, { format: "schema" });
        await look("3-settings", whole);
        await set(page, { format: "text" });
        await page.click("#tab-prompt");
        await page.waitForSelector(".chip-token");
        await look("4-prompt", whole);
        await page.click("#tab-code");
        await look("5-code", whole);
        await page.click("#tab-history");
        await look("6-history", whole);
        await page.click("#mode-chat");
        await look("7-chat-empty");
        if (chat) {
          await set(page, { max_tokens: 60, temperature: 0.7 });
          await say(page, "What makes the sky blue?");
          await say(page, "Say it in one sentence.");
          await look("8-chat");
          await page.locator(".message.user").first().getByRole("button", { name: "Edit" }).click();
          await look("9-chat-edit");
          await names(page);
        }
        await page.click("#key-button");
        await look("10-key");
        await page.context().close();
      }
    }
    return `least contrast ${worst.toFixed(2)}`;
  },

  async "administrator's page: load, cache, requests, in both themes and on a phone"({ session, open, shot }) {
    const other = await open();
    await set(other, { max_tokens: 3000, ignore_eos: true });
    await other.fill("#prompt", PROMPT);
    await other.click("#completion .run");
    for (const [scheme, width] of [["light", 1360], ["dark", 1360], ["light", 390], ["dark", 360]]) {
      const page = await open({ path: "/admin", scheme, width, reducedMotion: "reduce" });
      await page.waitForSelector("#models .card");
      if (width === 1360 && scheme === "light") {
        await page.waitForFunction(() => document.querySelector("#tiles .tile dd").textContent.startsWith("1 of"));
        await page.waitForFunction(() => parseFloat(document.querySelectorAll("#tiles dd")[3].textContent) > 0);
      }
      await sleep(2500);
      await contrast(page, `administration, ${scheme}, ${width}`);
      await fits(page, `administration, ${scheme}, ${width}`);
      await names(page);
      await shot(page, `admin-${scheme}-${width}`, { fullPage: true });
    }
    await other.keyboard.press("Escape");
    await done(other);
    const { recent } = await json(session, "/admin/status");
    const page = await open({ path: "/admin" });
    await page.waitForSelector("#recent tr");
    assert.ok((await page.locator("#recent tr").count()) >= Math.min(2, recent.length));
    assert.ok(!(await page.innerText("body")).includes(PROMPT), "no text of requests is shown");
  },

  async "keys: without one the page says so in the server's words; with one all works"({ session, open, shot }) {
    if (!session.model) return OTHERS;
    const file = join(session.folder, "keys.redb");
    const secret = session.addKey(file, "the page", "generate,score,admin");
    const server = await session.serve(0, "--keys", file);
    try {
      const page = await open({ base: server.base, refusals: true, wait: false });
      const refused = await fetch(`${server.base}/v1/models`);
      assert.equal(refused.status, 401);
      const { error } = await refused.json();
      await page.waitForSelector(".error");
      assert.equal(await page.locator(".error .words").innerText(), error.message);
      await shot(page, "key-needed");
      await page.getByRole("button", { name: "Enter a key" }).click();
      await page.fill("#key-input", secret);
      await page.keyboard.press("Enter");
      await page.waitForSelector("#model:not([disabled])");
      assert.equal(await page.locator(".error").count(), 0);
      await complete(page, PROMPT, { temperature: 0, max_tokens: 8 });
      await page.click("#tab-prompt");
      await page.waitForSelector(".chip-token");
      assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes(secret), "the key is not kept on the device");

      const admin = await open({ base: server.base, path: "/admin", refusals: true });
      await admin.waitForSelector("#gate:not([hidden])");
      await shot(admin, "admin-gate");
      await admin.fill("#gate-key", "wrong");
      await admin.keyboard.press("Enter");
      const wrong = await fetch(`${server.base}/admin/status`, { headers: { authorization: "Bearer wrong" } });
      await admin.getByText((await wrong.json()).error.message).waitFor();
      await contrast(admin, "the gate");
      await names(admin);
      await admin.fill("#gate-key", secret);
      await admin.keyboard.press("Enter");
      await admin.waitForSelector("#models .card");
      const row = admin.locator("#keys tr", { hasText: "the page" });
      await row.waitFor();
      assert.match(await row.innerText(), /valid/);
      await shot(admin, "admin-keys", { fullPage: true });
      await admin.click("#forget");
      await admin.waitForSelector("#gate:not([hidden])");
    } finally {
      await server.stop();
    }
  },

  async "a server that goes away and comes back"({ session, open, shot }) {
    if (!session.model) return OTHERS;
    let server = await session.serve(0);
    const { base } = server;
    try {
      const admin = await open({ base, path: "/admin", refusals: true });
      await admin.getByText("running", { exact: true }).waitFor();
      const page = await open({ base, refusals: true });
      await set(page, { max_tokens: 3000, ignore_eos: true });
      await page.fill("#prompt", PROMPT);
      await page.click("#completion .run");
      await page.waitForFunction(() => document.querySelectorAll(".tok").length > 3);
      await server.stop("SIGKILL");
      await done(page);
      await page.getByText("The connection was closed before the answer was complete.").waitFor();
      assert.match(await page.locator(".stats").textContent(), /^broken off/);
      await page.click("#completion .run");
      await page.getByText("The server does not answer. Is it still running?").waitFor();
      await admin.getByText("no answer", { exact: true }).waitFor();
      await shot(admin, "admin-gone");
      server = await session.serve(Number(new URL(base).port));
      await admin.getByText("running", { exact: true }).waitFor();
      assert.equal(await admin.locator("#trouble .error").count(), 0);
      await complete(page, PROMPT, { max_tokens: 8, ignore_eos: false });
      assert.equal(await page.locator(".error").count(), 0);
    } finally {
      await server.stop();
    }
  },
};
