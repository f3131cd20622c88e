// Errors: which exception a client sees, with which code, and what retries hide.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import OpenAI from "openai";

import { clearFaults, client, engines, fault, key, keyed, model } from "./fleet.mjs";

const messages = [{ role: "user", content: "hello" }];

afterEach(clearFaults);

test("an unknown model is not found", async () => {
  await assert.rejects(client().chat.completions.create({ model: "none", messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
    assert.ok(error.requestID);
    return true;
  });
});

test("an engine's own refusal passes through", async () => {
  await assert.rejects(client().chat.completions.create({ model, messages, max_tokens: -1 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.match(error.message, /max_tokens must be at least 1, got -1/);
    return true;
  });
});

test("a wrong key is refused by the engine and the right one is not", async () => {
  const ask = (apiKey) =>
    client({ baseURL: `${keyed}/v1`, apiKey }).chat.completions.create({ model, messages, max_tokens: 3 });
  await assert.rejects(ask("wrong"), OpenAI.AuthenticationError);
  assert.equal((await ask(key)).usage.completion_tokens, 3);
});

test("one busy engine is not seen by clients", async () => {
  await fault(engines[0], { kind: "status", code: 429, retry_after: 7 });
  for (let number = 0; number < 6; number += 1) {
    const answer = await client().chat.completions.create({
      model,
      messages: [{ role: "user", content: `node, question ${number}` }],
      max_tokens: 2,
    });
    assert.equal(answer.usage.completion_tokens, 2);
  }
});

test("when all are busy the client learns when to come back", async () => {
  await Promise.all(engines.map((engine) => fault(engine, { kind: "status", code: 429, retry_after: 3 })));
  await assert.rejects(client().chat.completions.create({ model, messages, max_tokens: 2 }), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.headers.get("retry-after"), "3");
    return true;
  });
});

test("a client that retries outlasts busy engines", async () => {
  const order = { kind: "status", code: 503, retry_after: 1, requests: 1 };
  await Promise.all(engines.map((engine) => fault(engine, order)));
  const answer = await client({ maxRetries: 4 }).chat.completions.create({ model, messages, max_tokens: 2 });
  assert.equal(answer.usage.completion_tokens, 2);
});

test("a request id is kept and returned", async () => {
  const { data, response, request_id } = await client()
    .chat.completions.create({ model, messages, max_tokens: 2 }, { headers: { "X-Request-Id": "order-68" } })
    .withResponse();
  assert.equal(response.headers.get("x-request-id"), "order-68");
  assert.equal(request_id, "order-68");
  assert.equal(data.id, "chatcmpl-order-68");
});
