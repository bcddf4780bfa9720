"""Runs the official Python client against the Stripe stand-in and fails on any difference.

    STRIPE_STANDIN_URL=http://127.0.0.1:12111 STRIPE_SECRET_KEY=sk_test_... python stripe-python.py

Optional: STRIPE_STANDIN_CONTROL_KEY. The stand-in must be able to reach 127.0.0.1 of this machine.
"""

import http.server
import json
import os
import sys
import threading
import time
import urllib.request
import uuid

import stripe
from stripe import StripeClient


def need(name):
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set")
    return value


BASE = need("STRIPE_STANDIN_URL").rstrip("/")
KEY = need("STRIPE_SECRET_KEY")


def connect(key):
    return StripeClient(key, base_addresses={"api": BASE}, max_network_retries=0)


def control(path, body=None):
    headers = {"content-type": "application/json"}
    if os.environ.get("STRIPE_STANDIN_CONTROL_KEY"):
        headers["authorization"] = f"Bearer {os.environ['STRIPE_STANDIN_CONTROL_KEY']}"
    data = json.dumps(body or {}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{BASE}/_control{path}", data, headers)) as answer:
        return json.load(answer)


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"expected {expected!r}, found {found!r}")


def refused(kind, action, **expected):
    try:
        action()
    except kind as error:
        for name, value in expected.items():
            equal(getattr(error, name), value)
        return error
    raise AssertionError(f"expected {kind.__name__}")


def until(what, probe):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited too long for {what}")


RECEIVED = []
SEEN = set()


class Receiver(http.server.BaseHTTPRequestHandler):
    """A shop's webhook; the first attempt of each event is refused, so every event is retried."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event = json.loads(body)["id"]
        if event in SEEN:
            RECEIVED.append((event, body, self.headers["stripe-signature"]))
            self.send_response(200)
        else:
            SEEN.add(event)
            self.send_response(500)
        self.end_headers()

    def log_message(self, *args):
        pass


def journey(client, url):
    endpoint = client.v1.webhook_endpoints.create(
        {"url": url, "enabled_events": ["checkout.session.completed", "charge.refunded"]}
    )
    secret = endpoint.secret

    # Customers
    tenant = str(uuid.uuid4())
    email = f"{tenant}@example.com"
    customer = client.v1.customers.create({"email": email, "metadata": {"wopr_tenant": tenant}})
    equal(client.v1.customers.retrieve(customer.id).metadata["wopr_tenant"], tenant)
    equal(client.v1.customers.update(customer.id, {"name": "Ada"}).name, "Ada")
    equal([found.id for found in client.v1.customers.list({"email": email}).data], [customer.id])

    # Idempotency
    options = {"idempotency_key": str(uuid.uuid4())}
    first = client.v1.customers.create({"name": "once"}, options)
    again = client.v1.customers.create({"name": "once"}, options)
    equal(again.id, first.id)
    equal(again.last_response.headers["idempotent-replayed"], "true")
    refused(stripe.IdempotencyError, lambda: client.v1.customers.create({"name": "twice"}, options), http_status=400)

    # Errors
    invalid = stripe.InvalidRequestError
    refused(invalid, lambda: client.v1.customers.retrieve("cus_none"), code="resource_missing", http_status=404)
    refused(invalid, lambda: client.v1.customers.create({"nonsense": "x"}), code="parameter_unknown", param="nonsense")
    refused(stripe.AuthenticationError, lambda: connect("sk_test_wrong").v1.customers.list(), http_status=401)

    # Checkout with a price of its own, paid after a decline
    session = client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "line_items": [
                {
                    "price_data": {"currency": "usd", "unit_amount": 3000, "product_data": {"name": "Credits"}},
                    "quantity": 1,
                }
            ],
            "success_url": "http://localhost:3000/done?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://localhost:3000/",
            "client_reference_id": tenant,
            "metadata": {"wopr_tenant": tenant},
        }
    )
    equal((session.status, session.payment_status, session.amount_total), ("open", "unpaid", 3000))
    with urllib.request.urlopen(session.url) as page:
        assert b"$30.00" in page.read()
    equal(control(f"/checkout/sessions/{session.id}/decline")["status"], "open")
    control(f"/checkout/sessions/{session.id}/pay")
    paid = client.v1.checkout.sessions.retrieve(
        session.id, {"expand": ["line_items", "payment_intent.latest_charge.balance_transaction"]}
    )
    equal((paid.status, paid.payment_status, paid.customer), ("complete", "paid", None))
    equal(paid.line_items.data[0].description, "Credits")
    equal(paid.payment_intent.latest_charge.balance_transaction.net, 3000 - 117)

    # Its event, listed and delivered
    events = client.v1.events.list({"type": "checkout.session.completed"}).data
    event = next(event for event in events if event.data.object["id"] == session.id)
    _, body, signature = until("the webhook", lambda: next((row for row in RECEIVED if row[0] == event.id), None))
    verified = client.construct_event(body, signature, secret)
    equal(verified.data.object["client_reference_id"], tenant)
    forged = stripe.SignatureVerificationError
    refused(forged, lambda: client.construct_event(body, signature, secret.removeprefix("whsec_")))
    refused(forged, lambda: client.construct_event(body + b" ", signature, secret))
    RECEIVED.clear()
    control(f"/events/{event.id}/redeliver", {"timestamp_offset_s": -301})
    _, body, signature = until("the stale webhook", lambda: next(iter(RECEIVED), None))
    refused(forged, lambda: client.construct_event(body, signature, secret))

    # Cards: saved, charged, declined
    setup = client.v1.setup_intents.create({"customer": customer.id, "payment_method": "pm_card_visa", "confirm": True})
    equal(setup.status, "succeeded")
    method = client.v1.payment_methods.list({"customer": customer.id}).data[0]
    charged = client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "customer": customer.id,
            "payment_method": method.id,
            "off_session": True,
            "confirm": True,
        }
    )
    equal(charged.status, "succeeded")
    declined = {"amount": 1000, "currency": "usd", "payment_method": "pm_card_chargeDeclined", "confirm": True}
    error = refused(stripe.CardError, lambda: client.v1.payment_intents.create(declined), code="card_declined")
    equal(error.error.decline_code, "generic_decline")

    # Refunds and disputes
    refund = client.v1.refunds.create({"payment_intent": charged.id, "amount": 400})
    equal((refund.amount, refund.status), (400, "succeeded"))
    refused(invalid, lambda: client.v1.refunds.create({"payment_intent": charged.id, "amount": 700}), param="amount")
    dispute = control(f"/charges/{paid.payment_intent.latest_charge.id}/dispute", {"reason": "fraudulent"})
    control(f"/disputes/{dispute['id']}/win")
    equal(client.v1.disputes.retrieve(dispute["id"]).status, "won")

    # Portal, lists of several pages, the books
    portal = client.v1.billing_portal.sessions.create({"customer": customer.id, "return_url": "http://localhost:3000/"})
    with urllib.request.urlopen(portal.url) as page:
        assert b"visa ending 4242" in page.read()
    rows = list(client.v1.balance_transactions.list({"limit": 2}).auto_paging_iter())
    equal(len({row.id for row in rows}), len(rows))
    balance = client.v1.balance.retrieve()
    equal(balance.available[0].amount + balance.pending[0].amount, sum(row.net for row in rows))

    equal(client.v1.customers.delete(customer.id).deleted, True)
    equal(client.v1.webhook_endpoints.delete(endpoint.id).deleted, True)


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        journey(connect(KEY), f"http://127.0.0.1:{server.server_port}/webhook")
    finally:
        server.shutdown()
    print("ok: the official Python client sees what it expects")


if __name__ == "__main__":
    main()
