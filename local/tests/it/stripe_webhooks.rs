//! Events on their way: signed, repeated, held, mixed up, forged.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stripe_webhook::{EventObject, Webhook, WebhookError};
use wopr_local::clock::{ManualClock, SystemClock};
use wopr_local::stripe::{Payment, Redelivery, ReleaseOrder, Signature};

use crate::support::{Api, Arrival, Receiver, SECRET, standin, until};

fn verify(arrival: &Arrival) -> Result<stripe_webhook::Event, WebhookError> {
    Webhook::construct_event(&arrival.body, arrival.signature.as_deref().unwrap_or_default(), SECRET)
}

async fn delivery_states(api: &Api, event: &str) -> Vec<Value> {
    let answer = api.http.get(format!("{}/_control/deliveries?event={event}", api.base)).send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    body["deliveries"].as_array().unwrap().iter().map(|row| row["state"].clone()).collect()
}

#[tokio::test]
async fn an_event_is_repeated_until_it_is_accepted_and_every_attempt_is_signed() {
    let receiver = Receiver::start().await;
    receiver.answer_next(&[500, 404, 302]);
    let (standin, api) = standin(Some(&receiver), Arc::new(SystemClock)).await;
    let customer = api.make("/v1/customers", &[("email", "a@example.com")]).await;
    let arrivals = receiver.wait_for("customer.created", 4).await;
    for arrival in &arrivals {
        let event = verify(arrival).unwrap();
        assert!(
            matches!(event.data.object, EventObject::CustomerCreated(c) if c.id.as_str() == customer["id"].as_str().unwrap())
        );
    }
    let id = arrivals[0].event()["id"].as_str().unwrap().to_owned();
    until("the event to count as delivered", async || {
        (api.get(&format!("/v1/events/{id}")).await.1["pending_webhooks"] == 0).then_some(())
    })
    .await;
    let rows = standin.control().deliveries(Some(&id)).await.unwrap();
    assert_eq!(
        (&rows[0]["attempts"], &rows[0]["state"], &rows[0]["last_status"]),
        (&json!(4), &json!("delivered"), &json!(200))
    );
}

#[tokio::test]
async fn a_paid_session_is_told_in_stripes_order_and_decoded_by_a_strict_client() {
    let receiver = Receiver::start().await;
    let (standin, api) = standin(Some(&receiver), Arc::new(SystemClock)).await;
    let session = api.session(&[]).await;
    standin.control().pay(session["id"].as_str().unwrap(), Payment::default()).await.unwrap();
    let arrivals = receiver.wait_for("checkout.session.completed", 1).await;
    let EventObject::CheckoutSessionCompleted(completed) = verify(&arrivals[0]).unwrap().data.object else {
        panic!("another object")
    };
    assert_eq!(completed.client_reference_id.as_deref(), Some("tenant-1"));
    assert!(completed.customer.is_none());
    assert_eq!(
        receiver.kinds(),
        ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed"]
    );
}

#[tokio::test]
async fn every_event_of_the_money_is_decoded_by_a_strict_client() {
    let receiver = Receiver::start().await;
    let (standin, api) = standin(Some(&receiver), Arc::new(SystemClock)).await;
    let session = api.session(&[("invoice_creation[enabled]", "true")]).await;
    standin.control().pay(session["id"].as_str().unwrap(), Payment::default()).await.unwrap();
    let (_, charges) = api.get("/v1/charges").await;
    let charge = charges["data"][0]["id"].as_str().unwrap();
    standin.control().refund(charge, Some(100)).await.unwrap();
    let dispute = standin.control().dispute(charge, "fraudulent", None).await.unwrap();
    standin.control().decide_dispute(dispute["id"].as_str().unwrap(), true).await.unwrap();
    receiver.wait_for("charge.dispute.closed", 1).await;
    for kind in receiver.kinds() {
        for arrival in receiver.arrivals(&kind) {
            verify(&arrival).unwrap_or_else(|error| panic!("{kind}: {error}\n{}", arrival.body));
        }
    }
    let refunded = &receiver.arrivals("charge.refunded")[0].event();
    assert_eq!(refunded["data"]["object"]["amount_refunded"], 100);
    assert_eq!(refunded["data"]["previous_attributes"]["amount_refunded"], 0);
}

#[tokio::test]
async fn an_event_is_sent_again_twice_late_stale_and_forged() {
    let receiver = Receiver::start().await;
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(start));
    let (standin, api) = standin(Some(&receiver), clock.clone()).await;
    api.make("/v1/customers", &[]).await;
    let event = receiver.wait_for("customer.created", 1).await[0].event();
    let id = event["id"].as_str().unwrap();
    let again = |how: Redelivery| standin.control().redeliver(id, how);
    let check = |arrival: &Arrival| {
        let now = start.as_second();
        Webhook::construct_event_with_timestamp(
            &arrival.body,
            arrival.signature.as_deref().unwrap_or_default(),
            SECRET,
            now,
        )
    };

    again(Redelivery { times: 2, ..Redelivery::default() }).await.unwrap();
    let arrivals = receiver.wait_for("customer.created", 3).await;
    for arrival in &arrivals {
        assert_eq!(check(arrival).unwrap().id.as_str(), id);
    }

    again(Redelivery { timestamp_offset_s: -301, ..Redelivery::default() }).await.unwrap();
    let stale = receiver.wait_for("customer.created", 4).await.pop().unwrap();
    assert!(matches!(check(&stale), Err(WebhookError::BadTimestamp(_))), "{:?}", check(&stale));

    for (number, signature) in [(5, Signature::Wrong), (6, Signature::Unprefixed), (7, Signature::Missing)] {
        again(Redelivery { signature, ..Redelivery::default() }).await.unwrap();
        let forged = receiver.wait_for("customer.created", number).await.pop().unwrap();
        assert!(check(&forged).is_err(), "{signature:?}");
        assert_eq!(forged.signature.is_none(), signature == Signature::Missing);
    }

    // A refusal of what was sent on purpose is noted, not repeated.
    receiver.answer_next(&[400]);
    let ids = again(Redelivery::default()).await.unwrap();
    until("the refusal", async || {
        let rows = standin.control().deliveries(None).await.unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["id"] == ids[0].as_str()).cloned().unwrap();
        (row["state"] == "refused").then_some(())
    })
    .await;

    // Late by an hour: nothing until the clock has moved, then a fresh signature.
    again(Redelivery { delay_s: 3600, ..Redelivery::default() }).await.unwrap();
    clock.advance(SignedDuration::from_secs(3599));
    assert_eq!(delivery_states(&api, id).await.iter().filter(|state| **state == "pending").count(), 1);
    assert_eq!(receiver.arrivals("customer.created").len(), 8);
    clock.advance(SignedDuration::from_secs(1));
    let late = receiver.wait_for("customer.created", 9).await.pop().unwrap();
    assert!(late.signature.unwrap().starts_with(&format!("t={},", start.as_second() + 3600)));
    assert_eq!(again(Redelivery { times: 0, ..Redelivery::default() }).await.unwrap_err().status, 400);
}

#[tokio::test]
async fn held_deliveries_go_in_the_order_asked_for() {
    let receiver = Receiver::start().await;
    let (standin, api) = standin(Some(&receiver), Arc::new(SystemClock)).await;
    standin.control().hold_deliveries().await.unwrap();
    for name in ["1", "2", "3", "4"] {
        api.make("/v1/customers", &[("name", name)]).await;
    }
    let (_, events) = api.get("/v1/events?type=customer.*").await;
    let mut ids: Vec<&str> =
        events["data"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect();
    ids.reverse();
    assert_eq!(delivery_states(&api, ids[0]).await, ["held"]);

    // One first; the rest stays held.
    standin.control().release_deliveries(ReleaseOrder::Events(vec![ids[2].to_owned()])).await.unwrap();
    receiver.wait_for("customer.created", 1).await;
    assert_eq!(delivery_states(&api, ids[0]).await, ["held"]);
    let (status, _) = api.control("/deliveries/release", json!({ "order": "reversed" })).await;
    assert_eq!(status, 200);
    let arrivals = receiver.wait_for("customer.created", 4).await;
    let names: Vec<Value> = arrivals.iter().map(|arrival| arrival.event()["data"]["object"]["name"].clone()).collect();
    assert_eq!(names, ["3", "4", "2", "1"]);

    api.make("/v1/customers", &[("name", "5")]).await;
    receiver.wait_for("customer.created", 5).await;
    let unknown = standin.control().release_deliveries(ReleaseOrder::Events(vec![ids[0].to_owned()])).await;
    assert_eq!(unknown.unwrap_err().status, 400, "it was let go before");
}

#[tokio::test]
async fn endpoints_made_through_the_api_get_what_they_asked_for() {
    let receiver = Receiver::start().await;
    let (_standin, api) = standin(None, Arc::new(SystemClock)).await;
    let endpoint =
        api.make("/v1/webhook_endpoints", &[("url", &receiver.url), ("enabled_events[]", "customer.deleted")]).await;
    let secret = endpoint["secret"].as_str().unwrap();
    let id = endpoint["id"].as_str().unwrap();
    assert!(api.get(&format!("/v1/webhook_endpoints/{id}")).await.1["secret"].is_null(), "told once");
    let customer = api.make("/v1/customers", &[]).await;
    let path = format!("{}/v1/customers/{}", api.base, customer["id"].as_str().unwrap());
    api.http.delete(path).bearer_auth(crate::support::KEY).send().await.unwrap();
    let arrival = receiver.wait_for("customer.deleted", 1).await.pop().unwrap();
    Webhook::construct_event(&arrival.body, arrival.signature.as_deref().unwrap(), secret).unwrap();
    assert_eq!(receiver.kinds(), ["customer.deleted"]);
}
