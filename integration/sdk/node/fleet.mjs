// The running fleet, as the tests see it: a router, the simulated engines behind it, and their switches for faults.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

import OpenAI from "openai";

function setting(name) {
  const value = process.env[`HERMES_SDK_${name}`];
  assert.ok(value, `HERMES_SDK_${name} is missing: start the suite with integration/sdk/run`);
  return value;
}

export const router = setting("ROUTER");
export const engines = setting("ENGINES").split(",");
export const model = setting("MODEL");
export const adapter = setting("ADAPTER");
/** A name that the router rewrites to the adapter's. */
export const rewritten = setting("REWRITTEN");
export const keyed = setting("KEYED");
export const key = setting("KEY");

/** A client that does not retry unless a test wants it. */
export function client(options = {}) {
  return new OpenAI({ baseURL: `${router}/v1`, apiKey: "unused", maxRetries: 0, timeout: 30_000, ...options });
}

export async function fault(engine, order) {
  const response = await fetch(`${engine}/sim/faults`, { method: "POST", body: JSON.stringify(order) });
  assert.equal(response.status, 200);
}

export async function clearFaults() {
  await Promise.all(engines.map((engine) => fetch(`${engine}/sim/faults`, { method: "DELETE" })));
}

/** Requests that run in all engines now. */
export async function running() {
  const pages = await Promise.all(engines.map(async (engine) => (await fetch(`${engine}/metrics`)).text()));
  const samples = pages.flatMap((page) => page.split("\n")).filter((line) => line.startsWith("vllm:num_requests_running{"));
  assert.equal(samples.length, engines.length);
  return samples.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** Waits until something holds, and fails when it does not in time. */
export async function eventually(holds, what, milliseconds = 10_000) {
  const deadline = Date.now() + milliseconds;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `not within ${milliseconds} ms: ${what}`);
    await sleep(50);
  }
}
