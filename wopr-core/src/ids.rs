//! Typed identifiers: `UUIDv7` inside, so that they sort by creation; a stable text form outside.
//!
//! | Form | Example | Used for |
//! |---|---|---|
//! | `simple` | `0190c6a7b5e77c0a9d3c2b1a00112233` | users, tenants, sessions: 32 characters of `[a-z0-9]` |
//! | `hyphenated` | `0190c6a7-b5e7-7c0a-9d3c-2b1a00112233` | bots and organisations |
//! | a prefix | `hold_0190c6a7b5e77c0a9d3c2b1a00112233` | everything else |

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use uuid::Uuid;

/// Text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id")]
pub struct InvalidId {
    /// The kind that was wanted, such as `bot`.
    pub kind: &'static str,
}

fn uuid_v7(at: Timestamp) -> Uuid {
    let seconds = u64::try_from(at.as_second()).unwrap_or(0);
    let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos))
}

macro_rules! typed_ids {
    ($($(#[$meta:meta])* $name:ident = $form:tt;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new identifier that sorts by `at`.
            pub fn new(at: Timestamp) -> Self {
                Self(uuid_v7(at))
            }

            /// Wraps a stored value.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The stored value.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                typed_ids!(@write $form, self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                typed_ids!(@parse $form, text)
                    .map(Self)
                    .ok_or(InvalidId { kind: stringify!($name) })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
    (@write simple, $uuid:expr, $f:expr) => { write!($f, "{}", $uuid.simple()) };
    (@write hyphenated, $uuid:expr, $f:expr) => { write!($f, "{}", $uuid.hyphenated()) };
    (@write $prefix:literal, $uuid:expr, $f:expr) => { write!($f, concat!($prefix, "_{}"), $uuid.simple()) };
    (@parse simple, $text:expr) => { parse_simple($text) };
    (@parse hyphenated, $text:expr) => { parse_hyphenated($text) };
    (@parse $prefix:literal, $text:expr) => { $text.strip_prefix(concat!($prefix, "_")).and_then(parse_simple) };
}

/// Exactly one text form per id: 32 lower-case hexadecimal digits.
fn parse_simple(text: &str) -> Option<Uuid> {
    let canonical = text.len() == 32 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    canonical.then(|| Uuid::try_parse(text).ok()).flatten()
}

/// Bot ids come from callers too, so either case is accepted; only the hyphenated form is.
fn parse_hyphenated(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

typed_ids! {
    /// A person who can sign in.
    UserId = simple;
    /// Who pays and owns: a personal tenant has its user's id.
    TenantId = simple;
    /// A signed-in browser.
    SessionId = simple;
    /// A way a person signs in.
    AccountId = simple;
    /// A secret sent by mail.
    OneTimeTokenId = "ott";
    /// A stored API key.
    ApiKeyId = "key";
    /// The journal of a process that spends leased credit.
    LeaseHolder = "lease";
    /// A call to a model.
    CallId = "req";
    /// A bot.
    BotId = hyphenated;
    /// Credit set aside for work in progress.
    HoldId = "hold";
    /// One movement of money.
    TransferId = "txn";
    /// An entry of the audit log.
    AuditId = "audit";
    /// A queued mail.
    MailId = "mail";
    /// A checkout that was started.
    CheckoutId = "checkout";
    /// A webhook that was received.
    WebhookId = "webhook";
    /// A payment that names no customer of ours.
    UnmatchedPaymentId = "unmatched";
    /// A comparison of the payment provider's books with the ledger.
    ReconciliationId = "reconciliation";
    /// A copy of a bot's data.
    SnapshotId = hyphenated;
    /// An attempt at giving a bot the data of a snapshot.
    RestoreId = hyphenated;
    /// A copy of the platform's database.
    DatabaseSetId = "dbset";
    /// A copy of the database's files.
    BaseBackupId = "base";
    /// A reboot of a GPU node.
    RebootId = "reboot";
}

impl From<UserId> for TenantId {
    /// The personal tenant of a user.
    fn from(user: UserId) -> Self {
        Self(user.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_back_and_refuses_the_others() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let (tenant, bot, hold) = (TenantId::new(at), BotId::new(at), HoldId::new(at));
        assert_eq!(tenant.to_string().parse(), Ok(tenant));
        assert_eq!(bot.to_string().parse(), Ok(bot));
        assert_eq!(hold.to_string().parse(), Ok(hold));
        assert!(bot.to_string().parse::<TenantId>().is_err());
        assert!(tenant.to_string().parse::<BotId>().is_err());
        assert!(tenant.to_string().parse::<HoldId>().is_err());
        assert!(
            tenant.to_string().to_uppercase().parse::<TenantId>().is_err()
                || tenant.to_string() == tenant.to_string().to_uppercase()
        );
        assert!("hold_".parse::<HoldId>().is_err());
    }

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let early = UserId::new(Timestamp::from_second(1_000).unwrap());
        let late = UserId::new(Timestamp::from_second(2_000).unwrap());
        assert!(early < late);
    }
}
