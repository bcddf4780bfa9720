//! Stripe's test cards: <https://docs.stripe.com/testing>.

use serde_json::{Value, json};

/// What happens to a charge on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeds,
    /// Refused by the bank: Stripe's error code, decline code and sentence.
    Declines(&'static str, &'static str, &'static str),
    /// The holder must confirm each payment.
    NeedsAuthentication,
    /// Succeeds, and the holder disputes it at once.
    Disputed,
}

/// One test card.
#[derive(Debug, Clone, Copy)]
pub(super) struct Card {
    number: &'static str,
    tokens: &'static [&'static str],
    pub(super) brand: &'static str,
    pub(super) funding: &'static str,
    pub(super) outcome: Outcome,
    /// Refused already when it is saved to a customer.
    pub(super) refuses_attach: bool,
}

const GENERIC: Outcome = Outcome::Declines("card_declined", "generic_decline", "Your card was declined.");

const fn good(
    number: &'static str,
    tokens: &'static [&'static str],
    brand: &'static str,
    funding: &'static str,
) -> Card {
    Card { number, tokens, brand, funding, outcome: Outcome::Succeeds, refuses_attach: false }
}

const fn visa(number: &'static str, tokens: &'static [&'static str], outcome: Outcome, refuses_attach: bool) -> Card {
    Card { number, tokens, brand: "visa", funding: "credit", outcome, refuses_attach }
}

const CARDS: &[Card] = &[
    good("4242424242424242", &["visa"], "visa", "credit"),
    good("4000056655665556", &["visa_debit"], "visa", "debit"),
    good("5555555555554444", &["mastercard"], "mastercard", "credit"),
    good("378282246310005", &["amex"], "amex", "credit"),
    visa("4000000000000002", &["chargeDeclined", "visa_chargeDeclined"], GENERIC, true),
    visa(
        "4000000000009995",
        &["chargeDeclinedInsufficientFunds", "visa_chargeDeclinedInsufficientFunds"],
        Outcome::Declines("card_declined", "insufficient_funds", "Your card has insufficient funds."),
        true,
    ),
    visa(
        "4000000000009987",
        &["chargeDeclinedLostCard", "visa_chargeDeclinedLostCard"],
        Outcome::Declines("card_declined", "lost_card", "Your card was declined."),
        true,
    ),
    visa(
        "4000000000000069",
        &["chargeDeclinedExpiredCard"],
        Outcome::Declines("expired_card", "expired_card", "Your card has expired."),
        true,
    ),
    visa(
        "4000000000000127",
        &["chargeDeclinedIncorrectCvc"],
        Outcome::Declines("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect."),
        true,
    ),
    visa("4000000000000341", &["chargeCustomerFail"], GENERIC, false),
    visa("4000002760003184", &["authenticationRequired", "threeDSecure2Required"], Outcome::NeedsAuthentication, false),
    visa("4000000000000259", &["createDispute"], Outcome::Disputed, false),
];

/// By number; spaces and dashes are ignored.
pub(super) fn by_number(number: &str) -> Option<Card> {
    let digits: String = number.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
    CARDS.iter().find(|card| card.number == digits).copied()
}

/// By token: `pm_card_visa` or `tok_visa`.
pub(super) fn by_token(token: &str) -> Option<Card> {
    let name = token.strip_prefix("pm_card_").or_else(|| token.strip_prefix("tok_"))?;
    CARDS.iter().find(|card| card.tokens.contains(&name)).copied()
}

impl Card {
    pub(super) fn number(&self) -> &'static str {
        self.number
    }

    pub(super) fn last4(&self) -> &'static str {
        self.number.get(self.number.len() - 4..).unwrap_or_default()
    }

    /// The `card` of a payment method.
    pub(super) fn details(&self, exp_month: i64, exp_year: i64) -> Value {
        json!({
            "brand": self.brand,
            "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
            "country": "US",
            "display_brand": self.brand,
            "exp_month": exp_month,
            "exp_year": exp_year,
            "fingerprint": fingerprint(self.number),
            "funding": self.funding,
            "generated_from": null,
            "last4": self.last4(),
            "networks": { "available": [self.brand], "preferred": null },
            "regulated_status": "unregulated",
            "three_d_secure_usage": { "supported": true },
            "wallet": null,
        })
    }
}

/// The same card has the same fingerprint, as with Stripe.
fn fingerprint(number: &str) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(number)).chars().take(16).collect()
}
