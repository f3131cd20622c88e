// The other APIs: completions, embeddings, models, responses.

import assert from "node:assert/strict";
import { test } from "node:test";

import { adapter, client, model } from "./fleet.mjs";

test("a completion counts its tokens", async () => {
  const answer = await client().completions.create({ model, prompt: "Once upon a time", max_tokens: 7 });
  assert.equal(answer.object, "text_completion");
  assert.equal(answer.usage.completion_tokens, 7);
});

test("each input is embedded by its text alone", async () => {
  const input = ["winged sandals", "a tortoise", "winged sandals"];
  const { data } = await client().embeddings.create({ model, input, encoding_format: "float" });
  const [first, second, third] = data.map((item) => item.embedding);
  assert.deepEqual(first, third);
  assert.notDeepEqual(first, second);
});

test("models are listed with their adapters, and retrieved by names with a slash", async () => {
  const { models } = client();
  const ids = [];
  for await (const { id } of models.list()) ids.push(id);
  assert.ok(ids.includes(model) && ids.includes(adapter), `only ${ids}`);
  assert.equal((await models.retrieve(model)).id, model);
});

test("a response has text and usage, and can be continued", async () => {
  const { responses } = client();
  const first = await responses.create({ model, input: "Who was Hermes?", max_output_tokens: 10 });
  assert.ok(first.output_text.length > 0);
  assert.equal(first.usage.output_tokens, 10);
  const next = { model, input: "And?", previous_response_id: first.id, max_output_tokens: 3 };
  assert.equal((await responses.create(next)).usage.output_tokens, 3);
});

test("a streamed response begins, grows and ends", async () => {
  const stream = await client().responses.create({ model, input: "Who?", max_output_tokens: 6, stream: true });
  const kinds = [];
  for await (const event of stream) kinds.push(event.type);
  assert.equal(kinds[0], "response.created");
  assert.equal(kinds.filter((kind) => kind === "response.output_text.delta").length, 6);
  assert.match(kinds.at(-1), /^response\.(completed|incomplete)$/);
});
