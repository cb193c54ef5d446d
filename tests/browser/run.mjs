// Drives the playground and the administrator's page in Chromium against a running verve. See README.md.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const here = import.meta.dirname;
const { values: options } = parseArgs({
  options: {
    bin: { type: "string", default: process.env.VERVE_BIN ?? join(here, "../../target/release/verve") },
    models: { type: "string", default: process.env.VERVE_TEST_MODELS },
    chromium: { type: "string", default: process.env.CHROMIUM ?? "/usr/bin/chromium" },
    shots: { type: "string" },
    server: { type: "string" },
    web: { type: "string" },
    only: { type: "string" },
  },
});

/** What this machine lacks is no failure. */
function skip(reason) {
  console.log(`skipped: ${reason}`);
  process.exit(0);
}

if (!existsSync(options.chromium)) skip(`no Chromium at ${options.chromium}; install it or give --chromium PATH`);
if (!options.server && !existsSync(options.bin)) skip(`no verve at ${options.bin}; build it with cargo build --release, or give --bin PATH`);
if (!existsSync(join(here, "node_modules/playwright-core"))) {
  const { status } = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: here, stdio: ["ignore", "ignore", "inherit"] });
  if (status !== 0) skip("npm ci in tests/browser has failed, and without playwright-core there is nothing to drive Chromium with");
}
if (options.shots) mkdirSync(options.shots, { recursive: true });

const { Session } = await import("./session.mjs");
const { checks } = await import("./checks.mjs");

const session = await Session.start(options);
let failed = 0;
try {
  for (const [name, check] of Object.entries(checks)) {
    if (options.only && !name.includes(options.only)) continue;
    const start = Date.now();
    try {
      const note = await session.run(name, check);
      console.log(`ok      ${name} (${Date.now() - start} ms)${note ? `: ${note}` : ""}`);
    } catch (error) {
      failed++;
      console.log(`FAILED  ${name}\n${String(error.stack ?? error).replace(/^/gm, "        ")}`);
    }
  }
} finally {
  await session.close();
}
console.log(failed === 0 ? "all good" : `${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
