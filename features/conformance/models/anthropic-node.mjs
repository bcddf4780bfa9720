// Anthropic's own client for Node, as published, against the gateway, which translates: the model behind it speaks as
// OpenAI does.
//
//   WOPR_API_URL       the API, http://localhost:3100 unless given
//   WOPR_SERVICE_KEY   a key of scope `inference`, of a customer with five dollars

import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";

import { API, CHAT, KEY, NOBODYS_KEY, QUESTION, UNPAYABLE_TOKENS, check, counted, refused, run } from "./checks.mjs";

const baseURL = `${API}/v1/anthropic`;
const anthropic = new Anthropic({ baseURL, apiKey: KEY });
const ask = { model: CHAT, max_tokens: 8, temperature: 0, messages: [{ role: "user", content: QUESTION }] };

function whole(message) {
  assert.equal(message.type, "message");
  assert.equal(message.role, "assistant");
  assert.equal(message.model, CHAT);
  assert.match(message.id, /^msg_/);
  assert.ok(["end_turn", "max_tokens", "tool_use"].includes(message.stop_reason), message.stop_reason);
  assert.ok(message.usage.input_tokens > 0 && message.usage.output_tokens > 0, JSON.stringify(message.usage));
}

check("a message", async () => {
  const message = await anthropic.messages.create({ ...ask, system: "You are a computer." });
  whole(message);
  assert.equal(message.content[0].type, "text");
  assert.match(message._request_id, /^req_/);
});

check("a message, with the key as a bearer", async () => {
  whole(await new Anthropic({ baseURL, apiKey: null, authToken: KEY }).messages.create(ask));
});

check("a stream has its events in their order", async () => {
  const kinds = [];
  for await (const event of await anthropic.messages.create({ ...ask, stream: true })) kinds.push(event.type);
  const once = kinds.filter((kind, at) => kind !== "ping" && kind !== kinds[at - 1]);
  assert.deepEqual(once, [
    "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
  ]);
});

check("the client's own stream helper puts the message together", async () => {
  let text = "";
  const message = await anthropic.messages.stream(ask).on("text", (part) => (text += part)).finalMessage();
  whole(message);
  assert.ok(text.length > 0);
  assert.equal(message.content[0].text, text);
});

check("a message with tools, and what came of them", async () => {
  const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tools = [{ name: "weather", description: "The weather", input_schema }];
  whole(await anthropic.messages.create({ ...ask, tools, tool_choice: { type: "auto" } }));
  const messages = [
    ...ask.messages,
    { role: "assistant", content: [{ type: "tool_use", id: "toolu_1", name: "weather", input: { city: "Oslo" } }] },
    { role: "user", content: [{ type: "tool_result", tool_use_id: "toolu_1", content: "rain" }] },
  ];
  whole(await anthropic.messages.create({ ...ask, tools, messages }));
});

check("models: the list, one, and none", async () => {
  const ids = [];
  for await (const model of anthropic.models.list()) {
    assert.equal(model.type, "model");
    ids.push(model.id);
  }
  assert.ok(ids.includes(CHAT), `${ids}`);
  assert.equal((await anthropic.models.retrieve(CHAT)).id, CHAT);
  await refused(anthropic.models.retrieve("no-such"), Anthropic.NotFoundError, 404);
});

check("a wrong key is an AuthenticationError, and is not tried again", async () => {
  const sent = counted();
  const stranger = new Anthropic({ baseURL, apiKey: NOBODYS_KEY, fetch: sent.fetch });
  const error = await refused(stranger.messages.create(ask), Anthropic.AuthenticationError, 401);
  assert.equal(error.error.error.type, "authentication_error");
  assert.equal(sent.count, 1);
});

check("a model that does not exist is a NotFoundError", async () => {
  const error = await refused(anthropic.messages.create({ ...ask, model: "nothing" }), Anthropic.NotFoundError, 404);
  assert.equal(error.error.error.type, "not_found_error");
});

check("a question without messages is a BadRequestError", async () => {
  const error = await refused(anthropic.messages.create({ model: CHAT, max_tokens: 8 }), Anthropic.BadRequestError, 400);
  assert.equal(error.error.error.type, "invalid_request_error");
});

check("what cannot be paid is a 402 that says where to pay", async () => {
  // This client bounds how long an answer may be that is not streamed, unless it is told how long to wait.
  const options = { timeout: 60_000 };
  const create = anthropic.messages.create({ ...ask, max_tokens: UNPAYABLE_TOKENS }, options);
  const { error } = (await refused(create, Anthropic.APIError, 402)).error;
  assert.equal(error.type, "billing_error");
  assert.match(error.topUpUrl, /^http.*\/dashboard\/credits$/);
});

check("a client that does not wait gives up, and tries again as often as it was told to", async () => {
  const sent = counted();
  const hasty = new Anthropic({ baseURL, apiKey: KEY, timeout: 1, maxRetries: 1, fetch: sent.fetch });
  await refused(hasty.messages.create(ask), Anthropic.APIConnectionTimeoutError);
  assert.equal(sent.count, 2);
  whole(await anthropic.messages.create(ask));
});

await run();
