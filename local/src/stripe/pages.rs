//! The pages a person sees: paying for a session, and looking after saved cards.
//!
//! No scripts. Who knows a session's address may pay for it, as with Stripe; nobody pays with real money here.

use std::sync::Arc;

use axum::extract::{Form, Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use serde_json::Value;

use super::checkout::Payer;
use super::engine::{Engine, Origin, number, text};
use super::error::ApiError;
use super::store::Kind;
use super::{cards, checkout, payment_methods};

const GOOD_CARD: &str = "4242 4242 4242 4242";
const BAD_CARD: &str = "4000 0000 0000 0002";

/// Text made safe for HTML, in attributes too.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// `1234` cents as `$12.34`.
fn money(cents: i64, currency: &str) -> String {
    let sign = if currency == "usd" { "$".to_owned() } else { format!("{} ", currency.to_uppercase()) };
    format!("{sign}{}.{:02}", cents / 100, (cents % 100).abs())
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:30rem;margin:3rem auto;padding:0 1rem}}\
         h1{{font-size:1.3rem}}.amount{{font-size:2rem;font-weight:600}}table{{width:100%}}td:last-child{{text-align:right}}\
         label{{display:block;margin:.7rem 0}}input{{width:100%;font:inherit;padding:.4rem;box-sizing:border-box}}\
         button{{font:inherit;padding:.5rem 1rem;margin:.3rem .3rem 0 0}}.error{{color:#a40000}}.note{{color:#555;font-size:.85rem}}\
         </style></head><body><h1>{title}</h1>{body}<p class=\"note\">Local Stripe stand-in. No real money moves here.</p>\
         </body></html>",
        title = escape(title),
    );
    let mut response = (status, Html(html)).into_response();
    // No form-action: paying redirects to wherever the shop is.
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    );
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn failed(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    page(status, "This does not work", &format!("<p class=\"error\">{}</p>", escape(&error.message)))
}

/// Where the shop wants the buyer next.
fn back(url: &str, session: &str) -> Response {
    Redirect::to(&url.replace("{CHECKOUT_SESSION_ID}", session)).into_response()
}

fn checkout_page(session: &Value, items: &Value, status: StatusCode, error: Option<&str>) -> Response {
    let currency = text(session, "currency");
    let rows = items["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| {
            format!(
                "<tr><td>{} × {}</td><td>{}</td></tr>",
                number(item, "quantity"),
                escape(text(item, "description")),
                money(number(item, "amount_total"), currency)
            )
        })
        .collect::<Vec<_>>()
        .concat();
    let error = error.map(|text| format!("<p class=\"error\" role=\"alert\">{}</p>", escape(text))).unwrap_or_default();
    let cancel = match session["cancel_url"].as_str() {
        Some(_) => "<button name=\"action\" value=\"cancel\">Cancel</button>",
        None => "",
    };
    let body = format!(
        "<p class=\"amount\">{}</p><table>{rows}</table>{error}\
         <form method=\"post\"><label>E-mail<input name=\"email\" type=\"email\" value=\"{}\"></label>\
         <label>Card number<input name=\"card\" inputmode=\"numeric\" autocomplete=\"off\" value=\"{GOOD_CARD}\"></label>\
         <button name=\"action\" value=\"pay\">Pay</button>\
         <button name=\"action\" value=\"later\">Pay later</button>\
         <button name=\"action\" value=\"decline\">Decline</button>{cancel}</form>\
         <p class=\"note\">{GOOD_CARD} pays, {BAD_CARD} is declined. \u{201c}Pay later\u{201d} completes the order at once and \
         brings the money afterwards, as a bank debit does.</p>",
        money(number(session, "amount_total"), currency),
        escape(text(session, "customer_email")),
    );
    page(status, "Checkout", &body)
}

/// `GET /c/pay/{session}`
pub(super) async fn show_checkout(State(engine): State<Arc<Engine>>, Path(id): Path<String>) -> Response {
    let found = engine.run(Origin::default(), move |tx| {
        let session = tx.load(Kind::Session, "checkout.session", &id)?;
        let items = tx.load(Kind::LineItems, "checkout.session", &id)?;
        Ok((session, items))
    });
    match found.await {
        Ok((session, items)) if session["status"] == "open" => checkout_page(&session, &items, StatusCode::OK, None),
        Ok((session, _)) => {
            let text =
                if session["status"] == "complete" { "This order is complete." } else { "This page has expired." };
            page(StatusCode::GONE, "Checkout", &format!("<p>{text}</p>"))
        }
        Err(error) => failed(&error),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckoutForm {
    action: Action,
    #[serde(default)]
    email: String,
    #[serde(default)]
    card: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Pay,
    Later,
    Decline,
    Cancel,
}

/// `POST /c/pay/{session}`
pub(super) async fn submit_checkout(
    State(engine): State<Arc<Engine>>,
    Path(id): Path<String>,
    Form(form): Form<CheckoutForm>,
) -> Response {
    let session_id = id.clone();
    let outcome = engine.run(Origin::default(), move |tx| {
        let session = tx.load(Kind::Session, "checkout.session", &id)?;
        let items = tx.load(Kind::LineItems, "checkout.session", &id)?;
        if form.action == Action::Cancel {
            return Ok((session, items));
        }
        let number = if form.action == Action::Decline { BAD_CARD } else { form.card.as_str() };
        let card = cards::by_number(number).ok_or_else(payment_methods::unknown_number)?;
        let email = Some(form.email).filter(|email| !email.is_empty());
        let payer = Payer { card, email, name: None, later: form.action == Action::Later };
        checkout::pay(tx, &id, &payer).map(|session| (session, items))
    });
    match outcome.await {
        Ok((session, _)) if session["status"] == "complete" => back(text(&session, "success_url"), &session_id),
        Ok((session, items)) => match session["cancel_url"].as_str() {
            Some(url) => back(url, &session_id),
            None => checkout_page(&session, &items, StatusCode::OK, None),
        },
        Err(error) if error.status == 402 => declined(&engine, session_id, &error).await,
        Err(error) => failed(&error),
    }
}

async fn declined(engine: &Arc<Engine>, id: String, error: &ApiError) -> Response {
    let found = engine.run(Origin::default(), move |tx| {
        Ok((tx.load(Kind::Session, "checkout.session", &id)?, tx.load(Kind::LineItems, "checkout.session", &id)?))
    });
    match found.await {
        Ok((session, items)) => checkout_page(&session, &items, StatusCode::PAYMENT_REQUIRED, Some(&error.message)),
        Err(error) => failed(&error),
    }
}

/// `GET /p/session/{portal session}`
pub(super) async fn show_portal(State(engine): State<Arc<Engine>>, Path(id): Path<String>) -> Response {
    let found = engine.run(Origin::default(), move |tx| {
        let portal = tx.load(Kind::PortalSession, "portal session", &id)?;
        let customer = portal["customer"].clone();
        let mine = |kind| tx.store.rows(kind).filter(|row| row["customer"] == customer).cloned().collect::<Vec<_>>();
        Ok((portal, mine(Kind::PaymentMethod), mine(Kind::Invoice)))
    });
    match found.await {
        Ok((portal, methods, invoices)) => portal_page(&portal, &methods, &invoices),
        Err(error) => failed(&error),
    }
}

fn portal_page(portal: &Value, methods: &[Value], invoices: &[Value]) -> Response {
    let methods = methods
        .iter()
        .map(|method| {
            let id = escape(text(method, "id"));
            let card = &method["card"];
            format!(
                "<tr><td>{} ending {}</td><td><form method=\"post\"><button name=\"remove\" value=\"{id}\">Remove</button>\
                 </form></td></tr>",
                escape(text(card, "brand")),
                escape(text(card, "last4")),
            )
        })
        .collect::<Vec<_>>().concat();
    let invoices = invoices
        .iter()
        .map(|invoice| {
            format!(
                "<tr><td>{} ({})</td><td>{}</td></tr>",
                escape(text(invoice, "number")),
                escape(text(invoice, "status")),
                money(number(invoice, "total"), text(invoice, "currency"))
            )
        })
        .collect::<Vec<_>>()
        .concat();
    let back = match portal["return_url"].as_str() {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            format!("<p><a href=\"{}\">Return</a></p>", escape(url))
        }
        _ => String::new(),
    };
    let body = format!(
        "<h2>Cards</h2><table>{methods}</table>\
         <form method=\"post\"><label>Card number<input name=\"card\" inputmode=\"numeric\" autocomplete=\"off\"></label>\
         <button>Add</button></form><h2>Invoices</h2><table>{invoices}</table>{back}"
    );
    page(StatusCode::OK, "Billing", &body)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortalForm {
    #[serde(default)]
    remove: Option<String>,
    #[serde(default)]
    card: Option<String>,
}

/// `POST /p/session/{portal session}`
pub(super) async fn submit_portal(
    State(engine): State<Arc<Engine>>,
    Path(id): Path<String>,
    Form(form): Form<PortalForm>,
) -> Response {
    let here = format!("/p/session/{id}");
    let outcome = engine.run(Origin::default(), move |tx| {
        let portal = tx.load(Kind::PortalSession, "portal session", &id)?;
        let customer = text(&portal, "customer");
        if let Some(method) = form.remove {
            let owned = tx.load(Kind::PaymentMethod, "PaymentMethod", &method)?;
            if owned["customer"] != customer {
                return Err(ApiError::not_found("PaymentMethod", &method));
            }
            payment_methods::detach_now(tx, &method)?;
        }
        if let Some(number) = form.card {
            let card = cards::by_number(&number).ok_or_else(payment_methods::unknown_number)?;
            let expiry = (12, payment_methods::expiry_year(tx));
            let details = payment_methods::billing_details(None, None);
            let method = payment_methods::from_card(tx, card, expiry, details, serde_json::json!({}));
            payment_methods::attach_to(tx, text(&method, "id"), customer)?;
        }
        Ok(())
    });
    match outcome.await {
        Ok(()) => Redirect::to(&here).into_response(),
        Err(error) => failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href='\"&"), "&lt;a href=&#39;&quot;&amp;");
    }

    #[test]
    fn cents_are_shown_as_dollars() {
        assert_eq!(money(105, "usd"), "$1.05");
        assert_eq!(money(3000, "eur"), "EUR 30.00");
    }
}
