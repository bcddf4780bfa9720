//! The mails that payments send.

use super::facts::{PaymentFact, UnmatchedPayment};
use crate::money::Money;
use crate::notify::Mail;

pub(super) fn receipt(recipient: &str, payment: &PaymentFact) -> Mail {
    let bonus = if payment.credit.bonus.is_positive() {
        format!(" and {} on top", payment.credit.bonus)
    } else {
        String::new()
    };
    let paid = Money::try_from_cents(payment.paid_cents).unwrap_or(payment.credit.purchase);
    let text = format!(
        "Thank you. We received {paid} and added {}{bonus} to your WOPR credit.\n\nReference: {}",
        payment.credit.purchase, payment.reference
    );
    mail(format!("receipt:{}", payment.reference), "credit-purchase-receipt", recipient, "Your WOPR credit", text)
}

pub(super) fn unmatched(recipient: &str, payment: &UnmatchedPayment) -> Mail {
    let text = format!(
        "A payment cannot be credited without you.\n\nPayment: {}\nReference: {}\nAmount: {} {} (smallest unit)\n\
         Reason: {}\nPayer: {}\n\nAssign it to its tenant.",
        payment.id,
        payment.reference,
        payment.paid_cents,
        payment.currency,
        payment.reason.as_str(),
        payment.email.as_deref().unwrap_or("unknown"),
    );
    let key = format!("unmatched:{}", payment.reference);
    mail(key, "unmatched-payment", recipient, "A payment waits for you", text)
}

fn mail(dedupe_key: String, template: &'static str, recipient: &str, subject: &str, text: String) -> Mail {
    Mail {
        dedupe_key,
        template,
        recipient: recipient.to_owned(),
        subject: subject.to_owned(),
        html_body: format!("<p>{}</p>", escape(&text).replace('\n', "<br>")),
        text_body: text,
    }
}

/// What a payer typed is text, not markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
