// Chat completions: whole, streamed, in parallel, abandoned, and with the original's prefix.

import assert from "node:assert/strict";
import { test } from "node:test";

import { client, eventually, model, rewritten, router, running } from "./fleet.mjs";

const messages = [{ role: "user", content: "What do messengers do?" }];

test("a streamed answer has the text of a whole one", async () => {
  const { completions } = client().chat;
  const whole = await completions.create({ model, messages, max_tokens: 12 });
  assert.equal(whole.usage.completion_tokens, 12);
  const pieces = [];
  for await (const chunk of await completions.create({ model, messages, max_tokens: 12, stream: true })) {
    pieces.push(chunk.choices[0].delta.content ?? "");
  }
  assert.equal(pieces.filter(Boolean).length, 12);
  assert.equal(pieces.join(""), whole.choices[0].message.content);
});

test("a rewritten model comes back as it was asked for, whole, streamed and in responses", async () => {
  const openai = client();
  const whole = await openai.chat.completions.create({ model: rewritten, messages, max_tokens: 4 });
  assert.equal(whole.model, rewritten);
  const stream = await openai.chat.completions.create({ model: rewritten, messages, max_tokens: 4, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.model, rewritten);
  }
  const events = await openai.responses.create({ model: rewritten, input: "hi", max_output_tokens: 4, stream: true });
  const models = [];
  for await (const event of events) {
    if (event.response) {
      models.push(event.response.model);
    }
  }
  assert.ok(models.length >= 2 && models.every((name) => name === rewritten), models.join());
});

test("usage comes last when it is asked for", async () => {
  const stream_options = { include_usage: true };
  const stream = await client().chat.completions.create({ model, messages, max_tokens: 5, stream: true, stream_options });
  let last;
  for await (const chunk of stream) {
    assert.equal(last?.usage ?? null, null);
    last = chunk;
  }
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, 5);
});

test("the stream helper assembles the final message", async () => {
  const stream = client().chat.completions.stream({ model, messages, max_tokens: 6 });
  let received = "";
  stream.on("content", (delta) => (received += delta));
  assert.equal(await stream.finalContent(), received);
  assert.ok(received.length > 0);
});

test("fifty requests at once are all answered", async () => {
  const openai = client({ timeout: 60_000 });
  const ask = (number) =>
    openai.chat.completions.create({ model, messages: [{ role: "user", content: `Question ${number}` }], max_tokens: 8 });
  const answers = await Promise.all(Array.from({ length: 50 }, (_, number) => ask(number)));
  assert.equal(new Set(answers.map((answer) => answer.id)).size, 50);
  assert.ok(answers.every((answer) => answer.usage.completion_tokens === 8));
});

test("the original's prefix serves", async () => {
  const openai = client({ baseURL: `${router}/rest/hermes-router/v1beta1/v1` });
  const answer = await openai.chat.completions.create({ model, messages, max_tokens: 2 });
  assert.equal(answer.usage.completion_tokens, 2);
});

test("a client that aborts its stream frees the engine", async () => {
  const abort = new AbortController();
  const request = { model, messages, max_tokens: 20_000, stream: true };
  const stream = await client().chat.completions.create(request, { signal: abort.signal });
  const { value: first } = await stream[Symbol.asyncIterator]().next();
  assert.equal(first.object, "chat.completion.chunk");
  await eventually(async () => (await running()) === 1, "the engine generates");
  abort.abort();
  await eventually(async () => (await running()) === 0, "the engine stopped generating");
});
