// What both programs for Node need: where the API is, a key, and a list of checks.
//
// All programs of this directory ask as one customer, who is let in sixty times a minute: together they ask less often.

import assert from "node:assert/strict";

export const API = (process.env.WOPR_API_URL ?? "http://localhost:3100").replace(/\/$/, "");
export const KEY = process.env.WOPR_SERVICE_KEY;
export const CHAT = "llama-3.1-8b";
// Asked without chance: by chance the model would now and then end before its first word.
export const QUESTION = "Shall we play a game?";
// The shape of a key, and nobody's.
export const NOBODYS_KEY = `wopr_sk_${"A".repeat(43)}_AAAAAA`;
// More than the customer's five dollars, whatever a token costs.
export const UNPAYABLE_TOKENS = 1_000_000_000;

assert.ok(KEY, "WOPR_SERVICE_KEY is not set");

// The promise must fail with this class of error.
export async function refused(promise, kind, status) {
  const error = await promise.then(
    (data) => assert.fail(`expected ${kind.name}, got ${JSON.stringify(data)}`),
    (error) => error,
  );
  assert.ok(error instanceof kind, `expected ${kind.name}, got ${error.constructor.name}: ${error}`);
  if (status !== undefined) assert.equal(error.status, status, `${error}`);
  return error;
}

// `fetch`, and how often it was called.
export function counted() {
  const sent = { count: 0, fetch: (...request) => ((sent.count += 1), fetch(...request)) };
  return sent;
}

const checks = [];
export const check = (name, body) => checks.push({ name, body });

export async function run() {
  let failed = 0;
  for (const { name, body } of checks) {
    try {
      await body();
      console.log(`ok    ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL  ${name}\n      ${(error.stack ?? String(error)).replaceAll("\n", "\n      ")}`);
    }
  }
  console.log(`${checks.length - failed} of ${checks.length} checks passed`);
  process.exit(failed === 0 ? 0 : 1);
}
