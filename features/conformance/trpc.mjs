// The official tRPC client against the API: what a page does, and what it reads out of errors.
//
//   WOPR_API_URL            the API, http://localhost:3100 unless given
//   STRIPE_WEBHOOK_SECRET   signs the payment that the second half needs; without it that half is refused, not skipped
//   WOPR_CONFORMANCE_BOTS   "off" leaves out creating a bot, where no engine hosts any

import assert from "node:assert/strict";
import { createHmac, randomUUID } from "node:crypto";

import { TRPCClientError, createTRPCUntypedClient, httpBatchLink, httpLink } from "@trpc/client";

const API = (process.env.WOPR_API_URL ?? "http://localhost:3100").replace(/\/$/, "");
const SECRET = process.env.STRIPE_WEBHOOK_SECRET;
const ORIGIN = "http://localhost:3000";
const PATIENCE_MS = 60_000;

let cookie;
const requests = [];
const fetchAsPage = async (url, init = {}) => {
  const headers = new Headers(init.headers);
  headers.set("origin", ORIGIN);
  if (cookie) headers.set("cookie", cookie);
  const response = await fetch(url, { ...init, headers });
  requests.push({ method: init.method ?? "GET", url: String(url), status: response.status });
  return response;
};

const single = createTRPCUntypedClient({ links: [httpLink({ url: `${API}/trpc`, fetch: fetchAsPage })] });
const batching = createTRPCUntypedClient({ links: [httpBatchLink({ url: `${API}/trpc`, fetch: fetchAsPage })] });

async function refused(promise, code, httpStatus) {
  const error = await promise.then(
    (data) => assert.fail(`expected ${code}, got ${JSON.stringify(data)}`),
    (error) => error,
  );
  assert.ok(error instanceof TRPCClientError, `${error}`);
  assert.equal(error.data?.code, code, JSON.stringify(error.shape));
  assert.equal(error.data?.httpStatus, httpStatus);
  assert.equal(typeof error.shape.code, "number");
  assert.equal(error.data.stack, undefined, "the server's stack is nobody's business");
  return error;
}

async function eventually(what, look) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    assert.ok(Date.now() < deadline, `not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const checks = [];
const check = (name, body) => checks.push({ name, body });

let tenant;

check("without a session: UNAUTHORIZED, by both links", async () => {
  for (const client of [single, batching]) {
    const error = await refused(client.query("billing.creditsBalance", {}), "UNAUTHORIZED", 401);
    assert.equal(error.message, "Authentication required");
  }
});

check("public procedures answer without a session, with and without an input", async () => {
  for (const client of [single, batching]) {
    const options = await client.query("billing.creditOptions");
    assert.ok(Array.isArray(options));
    for (const option of options) {
      assert.deepEqual(Object.keys(option).sort(), ["amountCents", "bonusPercent", "creditCents", "label", "priceId"]);
    }
  }
});

check("signing up", async () => {
  const response = await fetchAsPage(`${API}/api/auth/sign-up/email`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: "Ada", email: `ada+${randomUUID()}@example.com`, password: "Testpass1" }),
  });
  assert.equal(response.status, 200, await response.clone().text());
  tenant = (await response.json()).user.id;
  cookie = response.headers.getSetCookie().find((set) => set.includes("session_token="))?.split(";")[0];
  assert.ok(cookie);
});

check("a query has exactly the fields of the contract", async () => {
  const expected = { tenant, balance_cents: 0, daily_burn_cents: 0, runway_days: null };
  for (const client of [single, batching]) {
    assert.deepEqual(await client.query("billing.creditsBalance", {}), expected);
  }
});

check("a batch of queries is one request, and 207 when one of them fails", async () => {
  const before = requests.length;
  const [balance, bots, missing] = await Promise.allSettled([
    batching.query("billing.creditsBalance", {}),
    batching.query("fleet.listInstances"),
    batching.query("fleet.getInstance", { id: randomUUID() }),
  ]);
  const sent = requests.slice(before);
  assert.equal(sent.length, 1, JSON.stringify(sent));
  assert.equal(sent[0].status, 207);
  assert.match(sent[0].url, /billing\.creditsBalance,fleet\.listInstances,fleet\.getInstance\?batch=1/);
  assert.equal(balance.value.tenant, tenant);
  assert.deepEqual(bots.value, { bots: [] });
  assert.equal(missing.reason.data.code, "NOT_FOUND");
  assert.equal(missing.reason.data.path, "fleet.getInstance");
  assert.equal(missing.reason.message, "Bot not found");
});

check("a batch that succeeds is 200", async () => {
  const before = requests.length;
  await Promise.all([batching.query("billing.creditsBalance", {}), batching.query("fleet.listInstances")]);
  assert.deepEqual(requests.slice(before).map(({ status }) => status), [200]);
});

check("unknown procedures, wrong methods and wrong inputs have their codes", async () => {
  for (const client of [single, batching]) {
    const unknown = await refused(client.query("no.such"), "NOT_FOUND", 404);
    assert.equal(unknown.message, 'No procedure found on path "no.such"');
    await refused(client.mutation("billing.creditsBalance", {}), "METHOD_NOT_SUPPORTED", 405);
    await refused(client.query("billing.creditsCheckout", {}), "METHOD_NOT_SUPPORTED", 405);
    const invalid = await refused(client.mutation("billing.creditsCheckout", { priceId: 7 }), "BAD_REQUEST", 400);
    const issues = JSON.parse(invalid.message);
    assert.ok(issues.some(({ path }) => path[0] === "priceId"), invalid.message);
  }
});

check("a checkout", async () => {
  const input = { successUrl: `${ORIGIN}/dashboard`, cancelUrl: `${ORIGIN}/dashboard` };
  const [pack] = await single.query("billing.creditOptions");
  assert.ok(pack, "no pack is on offer");
  for (const client of [single, batching]) {
    const opened = await client.mutation("billing.creditsCheckout", { ...input, priceId: pack.priceId });
    assert.deepEqual(Object.keys(opened).sort(), ["sessionId", "url"]);
    assert.match(opened.sessionId, /^cs_/);
    assert.equal(new URL(opened.url).protocol.startsWith("http"), true);
    await refused(
      client.mutation("billing.creditsCheckout", { ...input, priceId: pack.priceId, successUrl: "https://evil.example/" }),
      "BAD_REQUEST",
      400,
    );
  }
});

check("without credit a bot is PAYMENT_REQUIRED, and the client can read how much is needed", async () => {
  const input = { name: "pauper", image: "wopr-network/wopr:latest", description: "" };
  for (const client of [single, batching]) {
    const error = await refused(client.mutation("fleet.createInstance", input), "PAYMENT_REQUIRED", 402);
    assert.equal(error.message, "Insufficient credits");
    assert.equal(error.data.details.required, 17);
    assert.equal(error.data.details.balance, 0);
    assert.equal(error.data.details.buyUrl, "/dashboard/credits");
  }
});

check("another tenant in the input is refused", async () => {
  await refused(single.query("billing.creditsBalance", { tenant: "0".repeat(32) }), "FORBIDDEN", 403);
});

check("a payment that Stripe reports becomes credit", async () => {
  assert.ok(SECRET, "STRIPE_WEBHOOK_SECRET is not set");
  const now = Math.floor(Date.now() / 1000);
  const session = {
    id: `cs_test_${randomUUID().replaceAll("-", "")}`, object: "checkout.session", amount_subtotal: 3000, amount_total: 3000,
    automatic_tax: { enabled: false, liability: null, provider: null, status: null }, client_reference_id: tenant,
    created: now, currency: "usd", custom_fields: [],
    custom_text: { after_submit: null, shipping_address: null, submit: null, terms_of_service_acceptance: null },
    customer: null, expires_at: now + 86_400, livemode: false, metadata: { wopr_tenant: tenant }, mode: "payment",
    payment_intent: `pi_${randomUUID().replaceAll("-", "")}`, payment_method_types: ["card"], payment_status: "paid",
    shipping_options: [], status: "complete",
  };
  const body = JSON.stringify({
    id: `evt_${randomUUID().replaceAll("-", "")}`, object: "event", api_version: "2026-09-30.endive", created: now,
    data: { object: session }, livemode: false, pending_webhooks: 1, request: { id: null, idempotency_key: null },
    type: "checkout.session.completed",
  });
  const signature = createHmac("sha256", SECRET).update(`${now}.${body}`).digest("hex");
  const response = await fetch(`${API}/api/billing/webhook`, {
    method: "POST",
    headers: { "content-type": "application/json", "stripe-signature": `t=${now},v1=${signature}` },
    body,
  });
  assert.equal(response.status, 200, await response.text());
  await eventually("3000 cents", async () => {
    const { balance_cents } = await batching.query("billing.creditsBalance", {});
    return balance_cents === 3000 || undefined;
  });
});

check("a bot: created by a mutation, polled until it runs, destroyed", async () => {
  if (process.env.WOPR_CONFORMANCE_BOTS === "off") return;
  const input = { name: `bot-${randomUUID().slice(0, 8)}`, image: "wopr-network/wopr:latest", description: "by the tRPC client" };
  await refused(single.mutation("fleet.createInstance", { ...input, image: "docker.io/library/alpine" }), "BAD_REQUEST", 400);
  const created = await batching.mutation("fleet.createInstance", input);
  assert.equal(created.name, input.name);
  assert.ok(["provisioning", "created"].includes(created.status), created.status);
  try {
    await eventually("a running bot", async () => {
      const bot = await batching.query("fleet.getInstance", { id: created.id });
      assert.equal(bot.id, created.id);
      assert.ok(!Number.isNaN(Date.parse(bot.createdAt)), bot.createdAt);
      return bot.status === "running" || undefined;
    });
  } finally {
    const ended = await single.mutation("fleet.controlInstance", { id: created.id, action: "destroy" });
    assert.deepEqual(ended, { ok: true });
  }
  await eventually("no bots", async () => {
    const { bots } = await single.query("fleet.listInstances");
    return bots.length === 0 || undefined;
  });
});

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
