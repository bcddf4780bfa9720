use anyhow::{Context as _, Result, ensure};
use cucumber::{given, then, when};
use futures_util::future::try_join_all;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::accounts::signed_up;
use crate::http::{Reply, Request};
use crate::person::Checkout;
use crate::stripe::{CheckoutReport, new_id, sign};
use crate::units::{Pack, Usd};
use crate::wait;
use crate::world::World;

const COMPLETED: &str = "checkout.session.completed";
const DASHBOARD: &str = "http://localhost:3000/dashboard";

#[given(expr = "{word} has signed up and paid {usd}")]
async fn signed_up_and_paid(world: &mut World, name: String, amount: Usd) -> Result<()> {
    signed_up(world, name.clone()).await?;
    has_paid(world, name, amount).await
}

#[given(expr = "Stripe has reported that {word} paid {usd}")]
async fn has_paid(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let before = world.person(&name)?.balance_cents().await?;
    reports_paid(world, name.clone(), amount).await?;
    balance_becomes(world, name, Usd(before + amount.0)).await
}

// Balances

#[when("somebody without a session asks for a balance")]
async fn nobody_asks(world: &mut World) -> Result<()> {
    let request = Request::query(&world.stack.api, "billing.creditsBalance", &json!({}));
    world.reply = Some(world.client.send(request).await?);
    Ok(())
}

#[then(expr = "{word}'s balance is {usd}, with nothing burnt per day and no end in sight")]
async fn fresh_balance(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let person = world.person(&name)?;
    let data = person.query("billing.creditsBalance", &json!({})).await?.data()?;
    let expected = json!({
        "tenant": person.tenant()?, "balance_cents": amount.0, "daily_burn_cents": 0, "runway_days": null,
    });
    ensure!(data == expected, "{data} is not {expected}");
    Ok(())
}

#[then(expr = "{word}'s balance becomes {usd}")]
async fn balance_becomes(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let person = world.person(&name)?;
    wait::until(&format!("a balance of {amount}"), async || {
        let cents = person.balance_cents().await?;
        ensure!(cents == amount.0, "it is {}", Usd(cents));
        Ok(())
    })
    .await
}

#[then(expr = "{word}'s balance stays {usd}")]
async fn balance_stays(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let person = world.person(&name)?;
    wait::throughout(&format!("a balance of {amount}"), async || {
        let cents = person.balance_cents().await?;
        ensure!(cents == amount.0, "it is {}", Usd(cents));
        Ok(())
    })
    .await
}

#[then(expr = "the table credit_transactions shows a purchase of {usd} by {word}")]
async fn table_shows(world: &mut World, amount: Usd, name: String) -> Result<()> {
    let tenant = uuid::Uuid::parse_str(world.person(&name)?.tenant()?)?;
    let query = format!("SELECT * FROM credit_transactions WHERE tenant_id = '{tenant}'");
    let rows = world.stack.database.rows(&query).await?;
    let amount_nanos = amount.0 * 10_000_000;
    let found = rows.iter().any(|row| row["type"] == "purchase" && row["amount_credits"] == amount_nanos);
    ensure!(found, "no purchase of {amount_nanos} nano-dollars in {rows:?}");
    Ok(())
}

#[when(expr = "{word} asks for the balance of {word}")]
async fn asks_for_anothers(world: &mut World, name: String, other: String) -> Result<()> {
    let tenant = world.person(&other)?.tenant()?.to_owned();
    world.reply = Some(world.person(&name)?.query("billing.creditsBalance", &json!({ "tenant": tenant })).await?);
    Ok(())
}

#[when(expr = "{word} asks for a balance with {word}'s tenant in the header")]
async fn asks_with_header(world: &mut World, name: String, other: String) -> Result<()> {
    let tenant = world.person(&other)?.tenant()?.to_owned();
    let request = Request::query(&world.stack.api, "billing.creditsBalance", &json!({})).header("x-tenant-id", tenant);
    world.reply = Some(world.person(&name)?.send(request).await?);
    Ok(())
}

#[then(expr = "the answer does not show {word}'s balance")]
async fn does_not_show(world: &mut World, name: String) -> Result<()> {
    let tenant = world.person(&name)?.tenant()?.to_owned();
    let reply = world.reply()?;
    ensure!(reply.status == 403 || reply.status == 200, "{reply}");
    ensure!(!reply.body.contains(&tenant), "{reply}");
    Ok(())
}

// Checkouts

#[when(expr = "{word} opens a checkout for the {pack} pack")]
async fn opens_checkout(world: &mut World, name: String, pack: Pack) -> Result<()> {
    let options = world.person(&name)?.query("billing.creditOptions", &json!({})).await?.data()?;
    let offered = options.as_array().into_iter().flatten().find(|option| option["amountCents"] == pack.0 * 100);
    let price = offered.and_then(|option| option["priceId"].as_str());
    let price = price.with_context(|| format!("no pack of ${} in {options}", pack.0))?.to_owned();
    opens_checkout_for(world, name.clone(), price).await?;
    let data = world.reply()?.data()?;
    let text = |field: &str| data[field].as_str().map(str::to_owned).with_context(|| format!("no {field} in {data}"));
    let checkout = Checkout { session_id: text("sessionId")?, url: text("url")? };
    world.person(&name)?.checkout = Some(checkout);
    Ok(())
}

#[when(expr = "{word} opens a checkout for the price {string}")]
async fn opens_checkout_for(world: &mut World, name: String, price: String) -> Result<()> {
    let input = json!({ "priceId": price, "successUrl": DASHBOARD, "cancelUrl": DASHBOARD });
    world.reply = Some(world.person(&name)?.mutate("billing.creditsCheckout", &input).await?);
    Ok(())
}

#[when(expr = "{word} opens a checkout that leads back to {string}")]
async fn opens_checkout_to(world: &mut World, name: String, url: String) -> Result<()> {
    let input = json!({ "priceId": "price_wopr_credits_25", "successUrl": url, "cancelUrl": DASHBOARD });
    world.reply = Some(world.person(&name)?.mutate("billing.creditsCheckout", &input).await?);
    Ok(())
}

#[then("the checkout has a session of Stripe's and a page to pay on")]
async fn has_page(world: &mut World) -> Result<()> {
    let checkout = checkout(world)?;
    ensure!(checkout.session_id.starts_with("cs_test_"), "{checkout:?}");
    let page = world.client.send(Request::get(checkout.url)).await?.expect_status(200)?;
    ensure!(page.body.contains("<form"), "{page}");
    Ok(())
}

fn checkout(world: &mut World) -> Result<Checkout> {
    world.person("Ada")?.checkout.clone().context("no checkout was opened")
}

#[when(expr = "{word} pays with the card {string}")]
async fn pays(world: &mut World, name: String, card: String) -> Result<()> {
    let reply = submit_card(world, &name, &card).await?;
    ensure!((302..=303).contains(&reply.status), "{reply}");
    ensure!(reply.header("location").starts_with(DASHBOARD), "{}", reply.header("location"));
    Ok(())
}

#[when(expr = "{word} tries to pay with the card {string}")]
async fn tries_to_pay(world: &mut World, name: String, card: String) -> Result<()> {
    submit_card(world, &name, &card).await?.expect_status(402)?;
    Ok(())
}

/// Fills in the form of the hosted page.
async fn submit_card(world: &mut World, name: &str, card: &str) -> Result<Reply> {
    let person = world.person(name)?;
    let page = person.checkout.clone().context("no checkout was opened")?.url;
    let fields = [("action", "pay"), ("card", card), ("email", person.email.as_str())];
    let request = Request::post(page).form(&fields);
    world.client.send(request).await
}

#[then("the checkout is still open")]
async fn still_open(world: &mut World) -> Result<()> {
    let session = checkout(world)?.session_id;
    let found = stripe_get(world, &format!("/v1/checkout/sessions/{session}")).await?;
    ensure!(found["status"] == "open" && found["payment_status"] == "unpaid", "{found}");
    Ok(())
}

// Stripe's side

async fn stripe_get(world: &World, path: &str) -> Result<Value> {
    let request = Request::get(format!("{}{path}", world.stack.stripe)).bearer(&world.stack.stripe_key);
    world.client.send(request).await?.expect_status(200)?.json()
}

async fn stripe_control(world: &World, path: &str, body: &Value) -> Result<Value> {
    let mut request = Request::post(format!("{}/_control{path}", world.stack.stripe)).json(body);
    if let Some(key) = &world.stack.stripe_control_key {
        request = request.bearer(key);
    }
    world.client.send(request).await?.expect_status(200)?.json()
}

/// The charge that paid the last checkout.
async fn charge(world: &mut World) -> Result<String> {
    let session = checkout(world)?.session_id;
    let path = format!("/v1/checkout/sessions/{session}?expand[]=payment_intent");
    let found = stripe_get(world, &path).await?;
    let charge = found["payment_intent"]["latest_charge"].as_str();
    charge.map(str::to_owned).with_context(|| format!("no charge in {found}"))
}

#[when("the operator refunds that payment at Stripe")]
async fn refunds(world: &mut World) -> Result<()> {
    let charge = charge(world).await?;
    stripe_control(world, &format!("/charges/{charge}/refund"), &json!({})).await?;
    Ok(())
}

#[when(expr = "the operator refunds {usd} of that payment at Stripe")]
async fn refunds_part(world: &mut World, amount: Usd) -> Result<()> {
    let charge = charge(world).await?;
    stripe_control(world, &format!("/charges/{charge}/refund"), &json!({ "amount": amount.0 })).await?;
    Ok(())
}

#[when(expr = "{word}'s bank disputes that payment")]
async fn disputes(world: &mut World, _name: String) -> Result<()> {
    let charge = charge(world).await?;
    let dispute = stripe_control(world, &format!("/charges/{charge}/dispute"), &json!({})).await?;
    world.dispute = Some(dispute["id"].as_str().with_context(|| format!("no id in {dispute}"))?.to_owned());
    Ok(())
}

#[when("the operator wins the dispute")]
async fn wins(world: &mut World) -> Result<()> {
    decide(world, "win").await
}

#[when("the operator loses the dispute")]
async fn loses(world: &mut World) -> Result<()> {
    decide(world, "lose").await
}

async fn decide(world: &mut World, how: &str) -> Result<()> {
    let dispute = world.dispute.clone().context("nothing is disputed")?;
    stripe_control(world, &format!("/disputes/{dispute}/{how}"), &json!({})).await?;
    Ok(())
}

// Reports, signed by hand

fn report(world: &mut World, name: &str, amount: Usd) -> Result<CheckoutReport> {
    let tenant = world.person(name)?.tenant()?.to_owned();
    Ok(CheckoutReport::new(Some(&tenant), amount.0))
}

async fn deliver(world: &World, event: &Value) -> Result<Reply> {
    let body = event.to_string();
    let signature = sign(&world.stack.webhook_secret, world.stack.now(), &body)?;
    send(world, body, Some(signature)).await
}

async fn send(world: &World, body: String, signature: Option<String>) -> Result<Reply> {
    let mut request = Request::post(format!("{}/api/billing/webhook", world.stack.api))
        .header("content-type", "application/json; charset=utf-8")
        .body(body);
    if let Some(signature) = signature {
        request = request.header("stripe-signature", signature);
    }
    world.client.send(request).await
}

/// Sends the report under a fresh event id, and expects it to be taken.
async fn report_now(world: &mut World, report: &CheckoutReport, kind: &str) -> Result<()> {
    let event = report.event(kind, world.stack.now());
    world.reply = Some(deliver(world, &event).await?.expect_status(200)?);
    world.reports.push(event);
    Ok(())
}

async fn reports_paid(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let report = report(world, &name, amount)?;
    report_now(world, &report, COMPLETED).await
}

#[when(expr = "Stripe reports that {word} paid {usd}, naming no customer")]
async fn reports_without_customer(world: &mut World, name: String, amount: Usd) -> Result<()> {
    reports_paid(world, name, amount).await
}

#[when(expr = "Stripe reports that {word} paid {usd}, naming a customer")]
async fn reports_with_customer(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let mut report = report(world, &name, amount)?;
    report.customer = Some(new_id("cus"));
    report_now(world, &report, COMPLETED).await
}

#[when(expr = "Stripe reports that {word} completed a checkout of {usd} without paying yet")]
async fn reports_unpaid(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let mut report = report(world, &name, amount)?;
    report.paid = false;
    report_now(world, &report, COMPLETED).await
}

#[when("Stripe reports that the money for it has come")]
async fn reports_money(world: &mut World) -> Result<()> {
    let mut event = world.reports.last().context("nothing was reported")?.clone();
    event["id"] = json!(new_id("evt"));
    event["type"] = json!("checkout.session.async_payment_succeeded");
    event["data"]["object"]["payment_status"] = json!("paid");
    world.reply = Some(deliver(world, &event).await?.expect_status(200)?);
    Ok(())
}

#[when(expr = "Stripe reports a payment of {usd} that names nobody")]
async fn reports_nobody(world: &mut World, amount: Usd) -> Result<()> {
    report_now(world, &CheckoutReport::new(None, amount.0), COMPLETED).await
}

#[then(expr = "the operator sees an unmatched payment of {usd}")]
async fn unmatched(world: &mut World, amount: Usd) -> Result<()> {
    let token = world.stack.admin_token.clone().context("no operator's token is known")?;
    let session = world.reports.last().context("nothing was reported")?["data"]["object"]["id"].clone();
    wait::until("an unmatched payment", async || {
        let request = Request::query(&world.stack.api, "admin.unmatchedPayments", &json!({})).bearer(&token);
        let found = world.client.send(request).await?.data()?;
        let mut payments = found.as_array().into_iter().flatten();
        let payment = payments.find(|payment| payment["reference"] == session);
        let payment = payment.with_context(|| format!("{session} is not in {found}"))?;
        ensure!(payment["paidCents"] == amount.0, "{payment}");
        Ok(())
    })
    .await
}

#[when(expr = "Stripe repeats that report {int} times")]
async fn repeats(world: &mut World, times: usize) -> Result<()> {
    let event = world.reports.last().context("nothing was reported")?.clone();
    for _ in 0..times {
        world.reply = Some(deliver(world, &event).await?.expect_status(200)?);
    }
    Ok(())
}

#[when(expr = "Stripe repeats that report {int} times at once")]
async fn repeats_at_once(world: &mut World, times: usize) -> Result<()> {
    let event = world.reports.last().context("nothing was reported")?.clone();
    let replies = try_join_all((0..times).map(|_| deliver(world, &event))).await?;
    for reply in replies {
        world.reply = Some(reply.expect_status(200)?);
    }
    Ok(())
}

#[then("the last answer says the event was a duplicate")]
async fn says_duplicate(world: &mut World) -> Result<()> {
    let reply = world.reply()?;
    ensure!(reply.json()?["duplicate"] == true, "{reply}");
    Ok(())
}

#[when("Stripe reports the same payment under another event id")]
async fn another_event(world: &mut World) -> Result<()> {
    let mut event = world.reports.last().context("nothing was reported")?.clone();
    event["id"] = json!(new_id("evt"));
    world.reply = Some(deliver(world, &event).await?.expect_status(200)?);
    Ok(())
}

#[given(expr = "Stripe is about to report that {word} paid {usd}")]
async fn about_to_report(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let event = report(world, &name, amount)?.event(COMPLETED, world.stack.now());
    world.reports.push(event);
    Ok(())
}

#[when("the reports arrive, the last one first, each twice")]
async fn arrive_reversed(world: &mut World) -> Result<()> {
    let mut events = std::mem::take(&mut world.reports);
    events.reverse();
    for event in events.iter().chain(&events) {
        deliver(world, event).await?.expect_status(200)?;
    }
    Ok(())
}

// Reports that are not Stripe's

#[when(expr = "somebody without the secret reports that {word} paid {usd}")]
async fn forged(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let body = report(world, &name, amount)?.event(COMPLETED, world.stack.now()).to_string();
    let signature = sign("whsec_of_somebody_else", world.stack.now(), &body)?;
    world.reply = Some(send(world, body, Some(signature)).await?);
    Ok(())
}

#[when(expr = "somebody without the secret reports that {word} paid {usd}, {int} times")]
async fn forged_often(world: &mut World, name: String, amount: Usd, times: usize) -> Result<()> {
    for _ in 0..times {
        forged(world, name.clone(), amount).await?;
        // Told off, or told to wait: either way nothing was believed.
        let reply = world.reply()?;
        ensure!(reply.status == 400 || reply.status == 429, "{reply}");
    }
    Ok(())
}

#[when(expr = "somebody with a stripped secret reports that {word} paid {usd}")]
async fn stripped(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let body = report(world, &name, amount)?.event(COMPLETED, world.stack.now()).to_string();
    let secret = world.stack.webhook_secret.strip_prefix("whsec_").context("the secret has no prefix")?;
    let signature = sign(secret, world.stack.now(), &body)?;
    world.reply = Some(send(world, body, Some(signature)).await?);
    Ok(())
}

#[when(expr = "a signed report that {word} paid {usd} is changed on its way to {usd}")]
async fn changed_on_its_way(world: &mut World, name: String, amount: Usd, changed: Usd) -> Result<()> {
    let honest = report(world, &name, amount)?;
    let body = honest.event(COMPLETED, world.stack.now()).to_string();
    let signature = sign(&world.stack.webhook_secret, world.stack.now(), &body)?;
    let body = body.replace(&format!(":{}", amount.0), &format!(":{}", changed.0));
    world.reply = Some(send(world, body, Some(signature)).await?);
    Ok(())
}

#[when(expr = "a report that {word} paid {usd} arrives without a signature")]
async fn unsigned(world: &mut World, name: String, amount: Usd) -> Result<()> {
    let body = report(world, &name, amount)?.event(COMPLETED, world.stack.now()).to_string();
    world.reply = Some(send(world, body, None).await?);
    Ok(())
}

#[when(regex = r"^a report that (\w+) paid (\$\d+\.\d\d) arrives, signed (\d+) seconds (ago|ahead)$")]
async fn signed_at(world: &mut World, name: String, amount: Usd, seconds: i64, when: String) -> Result<()> {
    let body = report(world, &name, amount)?.event(COMPLETED, world.stack.now()).to_string();
    let offset = SignedDuration::from_secs(if when == "ago" { -seconds } else { seconds });
    let signature = sign(&world.stack.webhook_secret, world.stack.now() + offset, &body)?;
    world.reply = Some(send(world, body, Some(signature)).await?);
    Ok(())
}
