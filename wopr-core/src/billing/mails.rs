//! The mails that a change of standing sends.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::standing::{Standing, SuspensionReason};
use crate::ids::TenantId;
use crate::notify::{Mail, templates};

/// A change of standing that a mail is about.
pub(super) struct Change<'c> {
    pub(super) tenant: TenantId,
    pub(super) from: Standing,
    pub(super) to: Standing,
    pub(super) at: Timestamp,
    /// What an operator gave as the reason.
    pub(super) note: Option<&'c str>,
    /// Whether the tenant is told about what it is not always told.
    pub(super) asked: bool,
}

/// The mail for a change. What money and time do is always told, what an operator does short of a ban only if asked.
pub(super) fn standing_changed(recipient: &str, change: &Change<'_>) -> Option<Mail> {
    let reason = change.note.map(|note| format!("The reason given is: {note}"));
    let by_operator = |text: &str| [Some(text.to_owned()), reason.clone()].into_iter().flatten().collect();
    let (template, title, paragraphs): (_, _, Vec<String>) = match (change.from, change.to) {
        (_, Standing::Grace { until }) => (
            "grace-period-start",
            "Your WOPR credit has run out",
            vec![
                "Your credit does not cover your bots any more.".to_owned(),
                format!(
                    "They keep running until {}; after that they are stopped. Add credit to keep them running.",
                    day(until)
                ),
            ],
        ),
        (_, Standing::Suspended { reason: SuspensionReason::Credits, delete_after: Some(end) }) => (
            "auto-suspended",
            "Your WOPR bots have been stopped",
            vec![
                "Your credit ran out and the grace period has passed, so your bots were stopped.".to_owned(),
                format!("Their data is kept until {}. Add credit to start them again.", day(end)),
            ],
        ),
        (Standing::Suspended { reason: SuspensionReason::Credits, .. }, Standing::Active) => (
            "account-reactivated",
            "Your WOPR account is active again",
            vec!["Credit has arrived and your account is active again.".to_owned()],
        ),
        (_, Standing::Banned { delete_after }) => (
            "account-banned",
            "Your WOPR account has been closed",
            by_operator(&format!(
                "Your account was closed for a breach of the terms of service. Its data is deleted on {}.",
                day(delete_after)
            )),
        ),
        (_, Standing::Suspended { reason: SuspensionReason::Admin, .. }) if change.asked => (
            "admin-suspended",
            "Your WOPR account has been suspended",
            by_operator("Your account was suspended by an operator. Your data is kept."),
        ),
        (Standing::Suspended { .. } | Standing::Grace { .. }, Standing::Active) if change.asked => (
            "admin-reactivated",
            "Your WOPR account is active again",
            vec!["Your account was reactivated by an operator.".to_owned()],
        ),
        _ => return None,
    };
    let cause = format!("{}:{}", change.tenant, change.at);
    let paragraphs: Vec<&str> = paragraphs.iter().map(String::as_str).collect();
    Some(templates::notice(template, &cause, recipient, title, &paragraphs))
}

fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%-d %B %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn change(from: Standing, to: Standing, asked: bool) -> Change<'static> {
        let tenant = TenantId::from_uuid(uuid::Uuid::from_u128(1 << 80));
        Change { tenant, from, to, at: AT, note: Some("<b>spam</b>"), asked }
    }

    #[test]
    fn the_customer_is_told_what_happens_when() {
        let grace = Standing::Grace { until: AT };
        let mail = standing_changed("a@example.com", &change(Standing::Active, grace, false)).unwrap();
        assert!(mail.text_body.contains("15 January 2027"), "{}", mail.text_body);
        assert!(standing_changed("a@example.com", &change(grace, Standing::Active, false)).is_none());
    }

    #[test]
    fn an_operators_words_are_sent_if_asked_and_as_text() {
        let stopped = Standing::Suspended { reason: SuspensionReason::Admin, delete_after: None };
        assert!(standing_changed("a@example.com", &change(Standing::Active, stopped, false)).is_none());
        let mail = standing_changed("a@example.com", &change(Standing::Active, stopped, true)).unwrap();
        assert!(mail.text_body.contains("<b>spam</b>"));
        assert!(mail.html_body.contains("&lt;b&gt;spam&lt;/b&gt;") && !mail.html_body.contains("<b>"));
        let back = standing_changed("a@example.com", &change(stopped, Standing::Active, true)).unwrap();
        assert_eq!(back.template, "admin-reactivated");
    }
}
