// Runs the official Node client against the Stripe stand-in and fails on any difference.
//
//   STRIPE_STANDIN_URL=http://127.0.0.1:12111 STRIPE_SECRET_KEY=sk_test_… node stripe-node.mjs
//
// Optional: STRIPE_STANDIN_CONTROL_KEY. The stand-in must be able to reach 127.0.0.1 of this machine.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import Stripe from "stripe";

function need(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} is not set`);
    process.exit(2);
  }
  return value;
}

const base = new URL(need("STRIPE_STANDIN_URL"));
const key = need("STRIPE_SECRET_KEY");
const options = { host: base.hostname, port: base.port, protocol: base.protocol.slice(0, -1), maxNetworkRetries: 0 };
const stripe = new Stripe(key, options);

async function control(path, body = {}) {
  const headers = { "content-type": "application/json" };
  if (process.env.STRIPE_STANDIN_CONTROL_KEY) {
    headers.authorization = `Bearer ${process.env.STRIPE_STANDIN_CONTROL_KEY}`;
  }
  const answer = await fetch(new URL(`/_control${path}`, base), { method: "POST", headers, body: JSON.stringify(body) });
  const json = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(json));
  return json;
}

async function until(what, found) {
  const deadline = Date.now() + 15_000;
  for (;;) {
    const value = await found();
    if (value) return value;
    assert.ok(Date.now() < deadline, `waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function refused(promise, expected) {
  const error = await promise.then(
    () => assert.fail(`expected ${JSON.stringify(expected)}`),
    (error) => error,
  );
  for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value, `${name} of ${error}`);
  return error;
}

// A receiver of events, as a shop has one: the first attempt of each event is refused, so every event is retried.
const received = [];
const seen = new Set();
let secret;
const receiver = createServer((request, response) => {
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (chunk) => (body += chunk));
  request.on("end", () => {
    const id = JSON.parse(body).id;
    if (!seen.has(id)) {
      seen.add(id);
      response.writeHead(500).end();
      return;
    }
    received.push({ body, signature: request.headers["stripe-signature"] });
    response.writeHead(200).end();
  });
});
await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));

try {
  const endpoint = await stripe.webhookEndpoints.create({
    url: `http://127.0.0.1:${receiver.address().port}/webhook`,
    enabled_events: ["checkout.session.completed", "charge.refunded", "charge.dispute.created"],
  });
  secret = endpoint.secret;
  assert.match(secret, /^whsec_/);

  // Customers
  const tenant = randomUUID();
  const customer = await stripe.customers.create({ email: `${tenant}@example.com`, metadata: { wopr_tenant: tenant } });
  assert.equal(customer.object, "customer");
  assert.equal((await stripe.customers.retrieve(customer.id)).metadata.wopr_tenant, tenant);
  assert.equal((await stripe.customers.update(customer.id, { name: "Ada" })).name, "Ada");
  assert.deepEqual((await stripe.customers.list({ email: customer.email })).data.map((c) => c.id), [customer.id]);

  // Idempotency
  const idempotencyKey = randomUUID();
  const first = await stripe.customers.create({ name: "once" }, { idempotencyKey });
  const again = await stripe.customers.create({ name: "once" }, { idempotencyKey });
  assert.equal(again.id, first.id);
  assert.equal(again.lastResponse.headers["idempotent-replayed"], "true");
  await refused(stripe.customers.create({ name: "twice" }, { idempotencyKey }), {
    type: "StripeIdempotencyError",
    statusCode: 400,
  });

  // Errors
  await refused(stripe.customers.retrieve("cus_none"), {
    type: "StripeInvalidRequestError",
    code: "resource_missing",
    statusCode: 404,
  });
  await refused(stripe.customers.create({ nonsense: "x" }), { code: "parameter_unknown", param: "nonsense" });
  await refused(new Stripe("sk_test_wrong", options).customers.list(), {
    type: "StripeAuthenticationError",
    statusCode: 401,
  });

  // Checkout, without a customer: none is made
  const prices = await stripe.prices.list({ limit: 100, active: true });
  const pack = prices.data.find((price) => price.unit_amount === 2500);
  assert.ok(pack, "the 25 dollar pack exists");
  const session = await stripe.checkout.sessions.create({
    mode: "payment",
    line_items: [{ price: pack.id, quantity: 1 }],
    success_url: "http://localhost:3000/done?session={CHECKOUT_SESSION_ID}",
    cancel_url: "http://localhost:3000/",
    client_reference_id: tenant,
    metadata: { wopr_tenant: tenant },
    payment_intent_data: { metadata: { wopr_checkout: tenant } },
  });
  assert.match(session.id, /^cs_test_/);
  assert.deepEqual([session.status, session.payment_status, session.amount_total], ["open", "unpaid", 2500]);
  const page = await fetch(session.url);
  assert.equal(page.status, 200);
  assert.match(await page.text(), /\$25\.00/);
  const items = await stripe.checkout.sessions.listLineItems(session.id);
  assert.equal(items.data[0].price.id, pack.id);

  await control(`/checkout/sessions/${session.id}/pay`, { email: "buyer@example.com" });
  const paid = await stripe.checkout.sessions.retrieve(session.id, {
    expand: ["line_items", "payment_intent.latest_charge.balance_transaction"],
  });
  assert.deepEqual([paid.status, paid.payment_status, paid.customer], ["complete", "paid", null]);
  assert.equal(paid.customer_details.email, "buyer@example.com");
  assert.equal(paid.line_items.data[0].amount_total, 2500);
  assert.deepEqual(paid.payment_intent.metadata, { wopr_checkout: tenant });
  const charge = paid.payment_intent.latest_charge;
  assert.deepEqual([charge.balance_transaction.amount, charge.balance_transaction.fee], [2500, 103]);

  // Its event, listed and delivered
  const events = await stripe.events.list({ type: "checkout.session.completed" });
  const event = events.data.find((event) => event.data.object.id === session.id);
  assert.ok(event, "the event is listed");
  const find = (id) => received.find(({ body }) => JSON.parse(body).id === id);
  const delivered = await until("the webhook", () => find(event.id));
  const verified = stripe.webhooks.constructEvent(delivered.body, delivered.signature, secret);
  assert.equal(verified.data.object.client_reference_id, tenant);
  assert.throws(() => stripe.webhooks.constructEvent(delivered.body, delivered.signature, secret.slice(6)));
  assert.throws(() => stripe.webhooks.constructEvent(`${delivered.body} `, delivered.signature, secret));

  // An old signature on purpose
  received.length = 0;
  await control(`/events/${event.id}/redeliver`, { timestamp_offset_s: -301 });
  const stale = await until("the late webhook", () => find(event.id));
  assert.throws(() => stripe.webhooks.constructEvent(stale.body, stale.signature, secret), /tolerance/);

  // Cards: saved, charged, declined
  const setup = await stripe.setupIntents.create({ customer: customer.id, payment_method: "pm_card_visa", confirm: true });
  assert.equal(setup.status, "succeeded");
  const methods = await stripe.paymentMethods.list({ customer: customer.id, type: "card" });
  assert.equal(methods.data[0].card.last4, "4242");
  const charged = await stripe.paymentIntents.create({
    amount: 1000, currency: "usd", customer: customer.id, payment_method: methods.data[0].id, off_session: true, confirm: true,
  });
  assert.equal(charged.status, "succeeded");
  const declined = await refused(
    stripe.paymentIntents.create({ amount: 1000, currency: "usd", payment_method: "pm_card_chargeDeclined", confirm: true }),
    { type: "StripeCardError", code: "card_declined", decline_code: "generic_decline", statusCode: 402 },
  );
  assert.equal(declined.payment_intent.status, "requires_payment_method");

  // Refunds
  const refund = await stripe.refunds.create({ payment_intent: charged.id, amount: 400 });
  assert.deepEqual([refund.amount, refund.status], [400, "succeeded"]);
  await refused(stripe.refunds.create({ payment_intent: charged.id, amount: 700 }), { statusCode: 400, param: "amount" });
  await stripe.refunds.create({ payment_intent: charged.id });
  await refused(stripe.refunds.create({ payment_intent: charged.id }), { code: "charge_already_refunded" });

  // A dispute
  const dispute = await control(`/charges/${charge.id}/dispute`, { reason: "fraudulent" });
  assert.equal((await stripe.disputes.retrieve(dispute.id)).status, "needs_response");
  assert.equal((await stripe.disputes.close(dispute.id)).status, "lost");

  // Portal, lists of several pages, the books
  const portal = await stripe.billingPortal.sessions.create({ customer: customer.id, return_url: "http://localhost:3000/" });
  assert.equal((await fetch(portal.url)).status, 200);
  const rows = await stripe.balanceTransactions.list({ limit: 2 }).autoPagingToArray({ limit: 10_000 });
  assert.equal(new Set(rows.map((row) => row.id)).size, rows.length);
  const balance = await stripe.balance.retrieve();
  assert.equal(balance.available[0].amount + balance.pending[0].amount, rows.reduce((sum, row) => sum + row.net, 0));

  assert.equal((await stripe.customers.del(customer.id)).deleted, true);
  assert.equal((await stripe.customers.retrieve(customer.id)).deleted, true);
  assert.equal((await stripe.webhookEndpoints.del(endpoint.id)).deleted, true);
  console.log("ok: the official Node client sees what it expects");
} finally {
  receiver.close();
}
