// The SDKs for Node read what is translated for them.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const messages = [{ role: "user", content: "What's the weather?" }];
const options = { apiKey: "unused", maxRetries: 0, timeout: 30_000 };
/** What the server returns to the next requests. */
let answer = { type: "application/json", body: Buffer.alloc(0) };
let server;
let url;

before(async () => {
  server = createServer(async (request, response) => {
    for await (const _ of request);
    response.writeHead(200, { "content-type": answer.type });
    // In pieces that are cut anywhere.
    for (let at = 0; at < answer.body.length; at += 61) {
      response.write(answer.body.subarray(at, at + 61));
    }
    response.end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${server.address().port}`;
});

after(() => server.close());

/** Returns the translation of what was recorded, such as of `chat-stream`. */
function serve(kind, name, length) {
  const text = readFileSync(`${process.env.HERMES_SDK_PAIRS}/${name}.txt`, "utf8");
  const given = text.split("--- given\n")[1].split("--- made\n")[0].slice(0, length);
  const body = execFileSync(process.env.HERMES_SDK_TRANSLATE, [kind], { input: given });
  answer = { type: kind.endsWith("stream") ? "text/event-stream" : "application/json", body };
}

test("OpenAI's SDK reads a translated stream of tools", async () => {
  const openai = new OpenAI({ ...options, baseURL: `${url}/v1` });
  serve("chat-stream", "chat_stream_tools");
  const { choices, usage } = await openai.chat.completions.stream({ model: "m", messages }).finalChatCompletion();
  assert.equal(choices[0].finish_reason, "tool_calls");
  assert.equal(choices[0].message.content, "Okay, let's check:");
  const calls = choices[0].message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
  assert.deepEqual(calls, [["get_weather", { location: "San Francisco, CA" }], ["now", {}]]);
  assert.equal(usage.prompt_tokens_details.cached_tokens, 128);
});

test("OpenAI's SDK reads translated thinking, answers and errors", async () => {
  const openai = new OpenAI({ ...options, baseURL: `${url}/v1` });
  serve("chat-stream", "chat_stream_thinking");
  let thinking = "";
  for await (const chunk of await openai.chat.completions.create({ model: "m", messages, stream: true })) {
    thinking += chunk.choices[0]?.delta.reasoning_content ?? "";
  }
  assert.equal(thinking, "I need to find the GCD of 1071 and 462.\n1071 = 2 × 462 + 147");
  serve("chat-answer", "chat_answer_tools");
  const whole = await openai.chat.completions.create({ model: "m", messages });
  assert.equal(whole.choices[0].message.tool_calls.length, 2);
  for (const [name, length, text] of [["chat_stream_error", undefined, /Overloaded/], ["chat_stream_tools", 900, /ended before/]]) {
    serve("chat-stream", name, length);
    await assert.rejects(openai.chat.completions.stream({ model: "m", messages }).finalChatCompletion(), text);
  }
});

test("Anthropic's SDK reads a translated stream of mixed calls", async () => {
  const anthropic = new Anthropic({ ...options, baseURL: url });
  serve("messages-stream", "messages_stream_mixed");
  const said = await anthropic.messages.stream({ model: "m", max_tokens: 99, messages }).finalMessage();
  assert.deepEqual(said.content.map((block) => block.type), ["thinking", "text", "tool_use", "tool_use", "text"]);
  assert.deepEqual(said.content.filter((block) => block.input).map((block) => block.input), [{ at: 1 }, { q: "}x" }]);
  assert.equal(said.stop_reason, "tool_use");
  assert.equal(said.usage.input_tokens, 15);
  assert.equal(said.usage.cache_read_input_tokens, 80);
});

test("Anthropic's SDK reads translated answers and errors", async () => {
  const anthropic = new Anthropic({ ...options, baseURL: url });
  serve("messages-answer", "messages_answer_tools");
  const whole = await anthropic.messages.create({ model: "m", max_tokens: 99, messages });
  assert.deepEqual(whole.content.map((block) => block.type), ["thinking", "text", "tool_use", "tool_use"]);
  for (const [name, text] of [["messages_stream_error", /EngineCore/], ["messages_stream_early", /ended before/]]) {
    serve("messages-stream", name);
    await assert.rejects(anthropic.messages.stream({ model: "m", max_tokens: 99, messages }).finalMessage(), text);
  }
});
