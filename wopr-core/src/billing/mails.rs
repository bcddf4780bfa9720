//! The mails that a change of standing sends.

use super::standing::{Standing, SuspensionReason};
use crate::ids::TenantId;
use crate::notify::Mail;

/// The mail for a transition, if the tenant is told about it. The key names the transition by what it leads to, so
/// that a repetition sends nothing.
pub(super) fn standing_changed(recipient: &str, tenant: TenantId, from: Standing, to: Standing) -> Option<Mail> {
    let (template, subject, text, detail) = match (from, to) {
        (_, Standing::Grace { until }) => (
            "grace-period-start",
            "Your WOPR credit has run out",
            format!(
                "Your credit does not cover your bots any more. They keep running until {}; after that they are \
                 stopped. Add credit to keep them running.",
                day(until)
            ),
            until.to_string(),
        ),
        (_, Standing::Suspended { reason: SuspensionReason::Credits, delete_after: Some(end) }) => (
            "auto-suspended",
            "Your WOPR bots have been stopped",
            format!(
                "Your credit ran out and the grace period has passed, so your bots were stopped. Their data is kept \
                 until {}. Add credit to start them again.",
                day(end)
            ),
            end.to_string(),
        ),
        (Standing::Suspended { reason: SuspensionReason::Credits, delete_after }, Standing::Active) => (
            "account-reactivated",
            "Your WOPR account is active again",
            "Credit has arrived and your account is active again.".to_owned(),
            delete_after.map(|at| at.to_string()).unwrap_or_default(),
        ),
        (_, Standing::Banned { delete_after }) => (
            "account-banned",
            "Your WOPR account has been closed",
            format!(
                "Your account was closed for a breach of the terms of service. Its data is deleted on {}.",
                day(delete_after)
            ),
            delete_after.to_string(),
        ),
        _ => return None,
    };
    Some(Mail {
        dedupe_key: format!("{template}:{tenant}:{detail}"),
        template,
        recipient: recipient.to_owned(),
        subject: subject.to_owned(),
        html_body: format!("<p>{text}</p>"),
        text_body: text,
    })
}

fn day(at: jiff::Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%-d %B %Y").to_string()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_customer_is_told_when_and_of_transitions_only_once() {
        let tenant = TenantId::from_uuid(uuid::Uuid::from_u128(1 << 80));
        let until = Timestamp::constant(1_800_000_000, 0);
        let grace = Standing::Grace { until };
        let mail = standing_changed("a@example.com", tenant, Standing::Active, grace).unwrap();
        assert!(mail.text_body.contains("15 January 2027"), "{}", mail.text_body);
        assert_eq!(standing_changed("a@example.com", tenant, Standing::Active, grace).unwrap(), mail);
        assert!(standing_changed("a@example.com", tenant, grace, Standing::Active).is_none());
    }
}
