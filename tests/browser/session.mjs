// A verve server and a Chromium, and pages that notice everything that should not happen in them.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { chromium } from "playwright-core";

/** What Chromium writes for an answer of 400 and more: expected where a check asks for an error. */
const REFUSED = /^Failed to load resource: (the server responded with a status of 4|net::ERR_(CONNECTION|INCOMPLETE|EMPTY))/;

export class Session {
  static async start(options) {
    const session = new Session();
    session.options = options;
    session.folder = mkdtempSync(join(tmpdir(), "verve-browser-"));
    try {
      if (options.server) session.base = options.server.replace(/\/$/, "");
      else {
        session.model = findModel(options) ?? trainModel(options, session.folder);
        session.server = await session.serve(0);
        session.base = session.server.base;
      }
      session.browser = await chromium.launch({ executablePath: options.chromium, args: ["--no-sandbox"] });
      return session;
    } catch (error) {
      await session.close();
      throw error;
    }
  }

  /** Starts one more server. The caller stops it. */
  serve(port, ...more) {
    return Server.start(this.options.bin, ["serve", "--model", this.model, "--port", String(port), ...more]);
  }

  /** Makes an API key in a file of keys and gives its secret. */
  addKey(file, name, scopes) {
    const { status, stdout, stderr } = spawnSync(this.options.bin, ["keys", "add", name, "--keys", file, "--scopes", scopes, "--json"], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    return JSON.parse(stdout).secret;
  }

  /** Runs one check with a fresh browser profile; afterwards nothing bad may have been seen. */
  async run(name, check) {
    const seen = [];
    const contexts = [];
    const open = async ({ path = "/", width = 1360, height = 860, scheme = "light", refusals = false, wait = true, base = this.base, ...more } = {}) => {
      const context = await this.browser.newContext({ viewport: { width, height }, colorScheme: scheme, ...more });
      contexts.push(context);
      const page = await context.newPage();
      watch(page, base, seen, refusals);
      if (this.options.web) await page.route((url) => /^\/(admin|assets\/[\w.]+)?$/.test(url.pathname), (route) => fromFolder(route, this.options.web));
      page.setDefaultTimeout(20_000);
      await page.goto(base + path);
      if (path === "/" && wait) await page.waitForSelector("#model:not([disabled])");
      return page;
    };
    const shot = async (page, file, more = {}) => {
      if (this.options.shots) await page.screenshot({ path: join(this.options.shots, `${file}.png`), ...more });
    };
    try {
      const note = await check({ session: this, open, shot });
      assert.deepEqual(seen, [], "the page did what it must not do");
      return note;
    } finally {
      for (const context of contexts) await context.close();
    }
  }

  async close() {
    await this.browser?.close();
    await this.server?.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A verve that serves. */
export class Server {
  static async start(bin, args, environment = {}) {
    const server = new Server();
    server.process = spawn(bin, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...environment } });
    let said = "";
    server.ended = new Promise((resolve) => server.process.once("exit", resolve));
    server.base = await new Promise((resolve, reject) => {
      const hear = (data) => {
        said += data;
        const address = /https?:\/\/(?:127\.0\.0\.1|localhost):\d+/.exec(said);
        if (address) resolve(address[0]);
      };
      server.process.stdout.on("data", hear);
      server.process.stderr.on("data", hear);
      server.process.once("error", reject);
      server.ended.then((status) => reject(new Error(`verve ${args.join(" ")} ended with ${status}:\n${said}`)));
      setTimeout(() => reject(new Error(`verve ${args.join(" ")} has not said where it listens:\n${said}`)), 60_000).unref();
    });
    await server.ready();
    return server;
  }

  async ready() {
    for (let tries = 0; tries < 600; tries++) {
      const answer = await fetch(`${this.base}/ready`).catch(() => null);
      if (answer?.ok) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`${this.base}/ready has not answered 200 within a minute`);
  }

  async stop(signal = "SIGTERM") {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    this.process.kill(signal);
    const late = setTimeout(() => this.process.kill("SIGKILL"), 10_000);
    await this.ended;
    clearTimeout(late);
  }
}

/** The page's files as they are in a folder, with the headers that the server gives them. */
async function fromFolder(route, folder) {
  const response = await route.fetch().catch(() => null);
  if (!response) return route.abort("connectionrefused");
  const name = { "/": "index.html", "/admin": "admin.html" }[new URL(route.request().url()).pathname];
  const file = join(folder, name ?? basename(route.request().url()));
  return route.fulfill({ response, body: readFileSync(file, "utf8") });
}

function watch(page, base, seen, refusals) {
  page.on("pageerror", (error) => seen.push(`error in the page: ${error.stack}`));
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    if (refusals && REFUSED.test(message.text())) return;
    seen.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${base}/`) && !/^(data|blob):/.test(url)) seen.push(`request to elsewhere: ${url}`);
  });
  page.on("dialog", (dialog) => {
    seen.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
}

/** SmolLM2 in the folder of published models. */
function findModel({ models }) {
  if (!models || !existsSync(models)) return null;
  const names = readdirSync(models).filter((name) => /^SmolLM2.*\.gguf$/.test(name)).sort();
  const name = names.find((name) => name.includes("Q4_1")) ?? names.find((name) => name.includes("Q4_0")) ?? names[0];
  return name ? join(models, name) : null;
}

/** A model of a few seconds, when there is no other: it babbles, which is enough for the page. */
function trainModel({ bin }, folder) {
  const texts = join(folder, "texts");
  mkdirSync(texts);
  const sentences = ["The cat sat on the mat.", "A dog ran over the hill.", "Once upon a time there was a king.", "The rain fell on the green grass."];
  for (let file = 0; file < 40; file++) {
    const lines = Array.from({ length: 200 }, (_, line) => sentences[(file * 7 + line * 3) % sentences.length]);
    writeFileSync(join(texts, `${file}.txt`), lines.join(" "));
  }
  const out = join(folder, "model");
  const { status, stderr } = spawnSync(bin, ["train", texts, "--out", out, "--preset", "nano", "--context", "4096", "--micro-batch", "1", "--batch-tokens", "4096", "--steps", "20", "--seed", "5"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`verve train has failed:\n${stderr}`);
  return out;
}
