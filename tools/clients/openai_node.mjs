// The official `openai` package for JavaScript against a running server.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import assert from "node:assert/strict";
import { parseArgs } from "node:util";

const { values: args } = parseArgs({ strict: false, options: { "base-url": { type: "string" }, "api-key": { type: "string" }, model: { type: "string" } } });
const model = args.model;
const client = new OpenAI({ baseURL: args["base-url"], apiKey: args["api-key"], maxRetries: 0, timeout: 120_000 });
let passed = 0, failed = 0;

async function check(what, test) {
  try {
    await test();
    console.log(`ok    ${what}`);
    passed += 1;
  } catch (error) {
    console.log(`FAIL  ${what}: ${error.name}: ${String(error.message).slice(0, 500)}`);
    failed += 1;
  }
}

const prompt = "The capital of France is";
const complete = (more = {}) => client.completions.create({ model, prompt, max_tokens: 12, temperature: 0, ...more });
const chat = (more = {}) => client.chat.completions.create({ model, messages: [{ role: "user", content: "Name a colour." }], max_completion_tokens: 16, temperature: 0, ...more });
const weather = {
  type: "function",
  function: {
    name: "get_weather", description: "Weather at a place now",
    parameters: { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"], additionalProperties: false },
  },
};
const Person = z.object({ name: z.string().max(20), age: z.number().int() });

await check("models: list and retrieve", async () => {
  const names = (await client.models.list()).data.map((m) => m.id);
  assert(names.includes(model));
  assert.equal((await client.models.retrieve(model)).object, "model");
});
await check("completions: whole and streamed are the same", async () => {
  const whole = await complete();
  let text = "", usage;
  for await (const chunk of await complete({ stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.text ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].text);
  // How much of the prompt was cached may differ from one time to the next.
  const counts = ({ prompt_tokens, completion_tokens, total_tokens }) => [prompt_tokens, completion_tokens, total_tokens];
  assert.deepEqual(counts(usage), counts(whole.usage));
});
await check("completions: echo with logprobs", async () => {
  const { text, logprobs } = (await complete({ max_tokens: 0, echo: true, logprobs: 1 })).choices[0];
  assert.equal(text, prompt);
  assert.equal(logprobs.token_logprobs[0], null);
  assert(logprobs.token_logprobs.slice(1).every((p) => p <= 0));
});
await check("completions: n with a seed", async () => {
  const texts = async () => (await complete({ n: 2, seed: 4, temperature: 1 })).choices.map((c) => c.text);
  assert.deepEqual(await texts(), await texts());
});
await check("chat: whole and streamed are the same", async () => {
  const whole = await chat();
  const stream = client.chat.completions.stream({ model, messages: [{ role: "user", content: "Name a colour." }], max_completion_tokens: 16, temperature: 0 });
  assert.equal(await stream.finalContent(), whole.choices[0].message.content);
});
await check("chat: logprobs", async () => {
  const { content } = (await chat({ logprobs: true, top_logprobs: 2 })).choices[0].logprobs;
  assert(content.every((t) => t.top_logprobs.length === 2));
});
await check("tools: required, whole and streamed", async () => {
  const wanted = { tools: [weather], tool_choice: "required", max_completion_tokens: 100 };
  const [call] = (await chat(wanted)).choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
  let text = "";
  for await (const chunk of await chat({ ...wanted, stream: true })) {
    for (const part of chunk.choices[0]?.delta.tool_calls ?? []) if (part.index === 0) text += part.function.arguments ?? "";
  }
  assert.equal(text, call.function.arguments);
});
await check("tools: runTools calls a function and answers", async () => {
  let asked;
  const runner = client.chat.completions.runTools({
    model, messages: [{ role: "user", content: "What is the weather in Paris?" }], max_completion_tokens: 100, temperature: 0,
    tool_choice: { type: "function", function: { name: "get_weather" } },
    tools: [{ type: "function", function: { ...weather.function, parse: JSON.parse, function: (given) => { asked = given; return "sunny"; } } }],
  }, { maxChatCompletions: 2 });
  await runner.done().catch(() => {});
  assert.equal(typeof asked?.city, "string");
});
await check("structured output: parse with zod", async () => {
  const answer = await client.chat.completions.parse({
    model, messages: [{ role: "user", content: "Invent a person." }], temperature: 0, max_completion_tokens: 100,
    response_format: zodResponseFormat(Person, "person"),
  });
  assert(Number.isInteger(answer.choices[0].message.parsed.age));
});
await check("responses: whole and streamed are the same", async () => {
  const asked = { model, input: "Name a colour.", max_output_tokens: 16, temperature: 0 };
  const whole = await client.responses.create(asked);
  let text = "";
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert(whole.output_text.length > 0);
  assert.equal(text, whole.output_text);
});
await check("embeddings: floats and base64 are the same", async () => {
  const asked = { model, input: ["a cat", "a dog"] };
  const packed = await client.embeddings.create(asked);
  const plain = await client.embeddings.create({ ...asked, encoding_format: "float" });
  packed.data.forEach((item, i) => item.embedding.forEach((x, j) => assert(Math.abs(x - plain.data[i].embedding[j]) < 1e-6)));
});
await check("moderations", async () => {
  assert.equal((await client.moderations.create({ input: "Hello." })).results[0].flagged, false);
});
await check("errors: the client's classes", async () => {
  await assert.rejects(client.withOptions({ apiKey: "sk-wrong" }).models.list(), OpenAI.AuthenticationError);
  await assert.rejects(complete({ model: "no-such-model" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
  await assert.rejects(complete({ temperature: 9 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature" && Boolean(e.requestID));
});
await check("cancellation: an aborted stream ends, and the next request is answered", async () => {
  const stream = await complete({ stream: true, max_tokens: 4000, ignore_eos: true });
  let seen = 0;
  for await (const _ of stream) if (++seen === 3) stream.controller.abort();
  assert(seen < 100);
  assert((await complete()).choices[0].text);
});
await check("32 streams at once, each the same as alone", async () => {
  const asked = (i) => ({ prompt: `Number ${i % 4} is`, seed: i % 4, temperature: 0.9, max_tokens: 16 });
  const alone = await Promise.all([0, 1, 2, 3].map(async (i) => (await complete(asked(i))).choices[0].text));
  const texts = await Promise.all(Array.from({ length: 32 }, async (_, i) => {
    let text = "";
    for await (const chunk of await complete({ ...asked(i), stream: true })) text += chunk.choices[0].text;
    return text;
  }));
  texts.forEach((text, i) => assert.equal(text, alone[i % 4]));
});

console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
