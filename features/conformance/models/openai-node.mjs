// OpenAI's own client for Node, as published, against the gateway: everything it offers that the stack has a model for.
// Its next major version asks for Node 22.
//
//   WOPR_API_URL       the API, http://localhost:3100 unless given
//   WOPR_SERVICE_KEY   a key of scope `inference`, of a customer with five dollars

import assert from "node:assert/strict";

import OpenAI, { toFile } from "openai";

import { API, CHAT, KEY, NOBODYS_KEY, QUESTION, UNPAYABLE_TOKENS, check, counted, refused, run } from "./checks.mjs";

const baseURL = `${API}/v1/openai/v1`;
const openai = new OpenAI({ baseURL, apiKey: KEY });
const messages = [{ role: "user", content: QUESTION }];
const ask = { model: CHAT, max_tokens: 8, temperature: 0, messages };

function used(usage) {
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0, JSON.stringify(usage));
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

check("a chat", async () => {
  const answer = await openai.chat.completions.create(ask);
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(typeof answer.choices[0].message.content, "string");
  assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
  used(answer.usage);
  assert.match(answer._request_id, /^req_/);
});

check("a chat, at the native address", async () => {
  const native = new OpenAI({ baseURL: `${API}/v1`, apiKey: KEY });
  used((await native.chat.completions.create(ask)).usage);
});

check("a stream, with the usage at its end", async () => {
  const stream = await openai.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
  let [text, reason, usage] = ["", null, null];
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    text += chunk.choices[0]?.delta.content ?? "";
    reason = chunk.choices[0]?.finish_reason ?? reason;
    if (chunk.usage) usage = chunk.usage;
  }
  assert.ok(text.length > 0);
  assert.ok(["stop", "length"].includes(reason), reason);
  used(usage);
});

check("a stream without usage, unless it was asked for", async () => {
  let chunks = 0;
  for await (const chunk of await openai.chat.completions.create({ ...ask, stream: true })) {
    chunks += 1;
    assert.ok(!chunk.usage, JSON.stringify(chunk));
    assert.equal(chunk.choices.length, 1);
  }
  assert.ok(chunks > 1, `${chunks} chunks`);
});

check("a stream that is left early ends nothing else", async () => {
  const stream = await openai.chat.completions.create({ ...ask, max_tokens: 64, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    break;
  }
  used((await openai.chat.completions.create(ask)).usage);
});

check("the client's own stream helper puts the answer together", async () => {
  const final = await openai.chat.completions.stream(ask).finalChatCompletion();
  assert.equal(final.choices[0].message.role, "assistant");
  assert.equal(typeof final.choices[0].message.content, "string");
});

check("a chat with tools", async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tools = [{ type: "function", function: { name: "weather", description: "The weather", parameters } }];
  const answer = await openai.chat.completions.create({ ...ask, tools, tool_choice: "auto" });
  assert.equal(answer.choices[0].message.role, "assistant");
  used(answer.usage);
  // What a client sends next: the call it was asked for, and what came of it.
  const calls = [{ id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Oslo"}' } }];
  const more = [
    ...messages,
    { role: "assistant", content: null, tool_calls: calls },
    { role: "tool", tool_call_id: "call_1", content: "rain" },
  ];
  used((await openai.chat.completions.create({ ...ask, tools, messages: more })).usage);
});

check("a completion of a text", async () => {
  const answer = await openai.completions.create({ model: CHAT, prompt: "Once upon", max_tokens: 8 });
  assert.equal(answer.object, "text_completion");
  assert.equal(typeof answer.choices[0].text, "string");
  used(answer.usage);
});

check("embeddings, one and many, as the client wants them and as numbers", async () => {
  const one = await openai.embeddings.create({ model: "qwen2-0.5b", input: QUESTION });
  const { length } = one.data[0].embedding;
  assert.ok(length > 1 && one.data[0].embedding.every(Number.isFinite), JSON.stringify(one.data[0]).slice(0, 200));
  assert.ok(one.usage.prompt_tokens > 0);
  const input = [QUESTION, "How about chess?"];
  const many = await openai.embeddings.create({ model: "qwen2-0.5b", input, encoding_format: "float" });
  assert.deepEqual(many.data.map(({ index, embedding }) => [index, embedding.length]), [[0, length], [1, length]]);
  for (const [at, value] of many.data[0].embedding.entries()) {
    assert.ok(Math.abs(value - one.data[0].embedding[at]) < 1e-3, `${at}: ${value}`);
  }
});

let speech;

check("speech", async () => {
  const answer = await openai.audio.speech.create({
    model: "chatterbox-tts", voice: "alloy", input: QUESTION, response_format: "wav",
  });
  speech = Buffer.from(await answer.arrayBuffer());
  assert.match(answer.headers.get("content-type"), /^audio\//);
  assert.equal(speech.subarray(0, 4).toString("latin1"), "RIFF");
  assert.ok(speech.length > 1000, `${speech.length} bytes`);
});

check("a transcription of that speech, in two formats", async () => {
  const file = () => toFile(speech, "speech.wav", { type: "audio/wav" });
  const ask = { model: "faster-whisper-small" };
  const plain = await openai.audio.transcriptions.create({ ...ask, file: await file() });
  assert.equal(typeof plain.text, "string");
  const verbose = await openai.audio.transcriptions.create({ ...ask, file: await file(), response_format: "verbose_json" });
  assert.equal(typeof verbose.text, "string");
  assert.ok(Number(verbose.duration) > 0, JSON.stringify(verbose));
});

check("models: the list, one, and none", async () => {
  const ids = [];
  for await (const model of openai.models.list()) {
    assert.equal(model.object, "model");
    ids.push(model.id);
  }
  for (const id of [CHAT, "qwen2-0.5b", "faster-whisper-small", "chatterbox-tts"]) assert.ok(ids.includes(id), `${ids}`);
  assert.equal((await openai.models.retrieve(CHAT)).id, CHAT);
  const error = await refused(openai.models.retrieve("no/such"), OpenAI.NotFoundError, 404);
  assert.equal(error.code, "model_not_found");
});

check("a wrong key is an AuthenticationError, and is not tried again", async () => {
  for (const apiKey of [NOBODYS_KEY, "sk-nonsense"]) {
    const sent = counted();
    const stranger = new OpenAI({ baseURL, apiKey, fetch: sent.fetch });
    const error = await refused(stranger.chat.completions.create(ask), OpenAI.AuthenticationError, 401);
    assert.equal(error.code, "invalid_api_key");
    assert.ok(!error.message.includes(apiKey));
    assert.equal(sent.count, 1);
  }
});

check("a model that does not exist is a NotFoundError that names the field", async () => {
  const error = await refused(openai.chat.completions.create({ ...ask, model: "nothing" }), OpenAI.NotFoundError, 404);
  assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
});

check("a question without messages is a BadRequestError that names the field", async () => {
  const error = await refused(openai.chat.completions.create({ model: CHAT }), OpenAI.BadRequestError, 400);
  assert.deepEqual([error.code, error.param], ["missing_field", "messages"]);
});

check("what cannot be paid is a 402 that says where to pay, and is not tried again", async () => {
  const sent = counted();
  const client = new OpenAI({ baseURL, apiKey: KEY, fetch: sent.fetch });
  for (const stream of [false, true]) {
    const create = client.chat.completions.create({ ...ask, max_tokens: UNPAYABLE_TOKENS, stream });
    const error = await refused(create, OpenAI.APIError, 402);
    assert.equal(error.code, "insufficient_credits");
    assert.equal(error.type, "billing_error");
    assert.equal(error.error.needsCredits, true);
    assert.match(error.error.topUpUrl, /^http.*\/dashboard\/credits$/);
  }
  assert.equal(sent.count, 2);
});

check("a client that does not wait gives up, and tries again as often as it was told to", async () => {
  const sent = counted();
  const hasty = new OpenAI({ baseURL, apiKey: KEY, timeout: 1, maxRetries: 1, fetch: sent.fetch });
  await refused(hasty.chat.completions.create(ask), OpenAI.APIConnectionTimeoutError);
  assert.equal(sent.count, 2);
  used((await openai.chat.completions.create(ask)).usage);
});

await run();
