//! What tenants have used, and the mails that tell them what it came to.

use jiff::Timestamp;

use super::error::GatewayError;
use super::model::Capability;
use super::record::Outcome;
use super::service::Gateway;
use super::spending::month_of;
use super::usage_repository::UsageRepository;
use crate::ids::{BotId, CallId, TenantId};
use crate::money::Money;
use crate::notify::{self, Mail, templates};

/// Tenants that are told in one transaction.
const TOLD_AT_ONCE: i64 = 100;

/// How long the windows of a usage are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UsageStep {
    /// Hours.
    #[default]
    Hour,
    /// Calendar days (UTC).
    Day,
}

/// Which part of a tenant's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// Only of this capability.
    pub capability: Option<Capability>,
    /// Only answered by this provider; the empty name is what nobody answered.
    pub provider: Option<String>,
    /// Only of the model that was asked for by this name.
    pub model: Option<String>,
    /// From the hour on in which this is.
    pub from: Option<Timestamp>,
    /// Up to the hour that begins at or after this.
    pub to: Option<Timestamp>,
    /// How long the windows are.
    pub step: UsageStep,
    /// At most so many, the newest.
    pub limit: u32,
}

impl UsageQuery {
    /// More are never answered at once.
    pub const MOST: u32 = 1_000;
}

impl Default for UsageQuery {
    /// Everything by the hour, as many as are answered at once.
    fn default() -> Self {
        Self {
            capability: None,
            provider: None,
            model: None,
            from: None,
            to: None,
            step: UsageStep::Hour,
            limit: Self::MOST,
        }
    }
}

/// What a tenant used of one model by one provider in one window, as far as it is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageWindow {
    /// When the window begins.
    pub begins_at: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
    /// What was asked for.
    pub capability: Capability,
    /// Who answered: a provider, or `gpu-<service>` for our own machines; empty where nobody did.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// Calls that ended.
    pub sums: UsageSums,
}

/// Sums of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageSums {
    /// Calls.
    pub requests: i64,
    /// Tokens read, characters, milliseconds of sound or pictures.
    pub input_units: i64,
    /// Tokens written.
    pub output_units: i64,
    /// How long they took, in milliseconds.
    pub duration_ms: i64,
    /// What they cost us.
    pub cost: Money,
    /// What was charged.
    pub charge: Money,
}

/// Which of a tenant's calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallsQuery {
    /// Only of this capability.
    pub capability: Option<Capability>,
    /// Begun at this or later.
    pub from: Option<Timestamp>,
    /// Begun before this.
    pub to: Option<Timestamp>,
    /// At most so many, the newest.
    pub limit: u32,
}

impl CallsQuery {
    /// More are never answered at once.
    pub const MOST: u32 = 500;
}

/// A call that has ended and is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastCall {
    /// The call.
    pub id: CallId,
    /// The bot that called, if it was one.
    pub bot_id: Option<BotId>,
    /// What was asked for.
    pub capability: Capability,
    /// The model that was asked for.
    pub model: String,
    /// Who answered, if somebody did.
    pub provider: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Tokens read, characters, milliseconds of sound or pictures.
    pub input_units: i64,
    /// Tokens written.
    pub output_units: i64,
    /// What was charged.
    pub charge: Money,
    /// When it was let in.
    pub started_at: Timestamp,
}

/// Somebody who has spent what they wanted to be told of.
pub(super) struct Spender {
    pub(super) tenant: TenantId,
    /// `None` is all together.
    pub(super) capability: Option<Capability>,
    pub(super) alert_cents: i64,
    pub(super) spent: Money,
}

impl Spender {
    /// The stored word for what the limit is of.
    pub(super) const fn word(&self) -> &'static str {
        match self.capability {
            Some(capability) => capability.as_str(),
            None => "*",
        }
    }
}

impl Gateway {
    /// What a tenant has used, the newest window first.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn usage(&self, tenant: TenantId, query: &UsageQuery) -> Result<Vec<UsageWindow>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(UsageRepository::new(&mut conn).list(tenant, query).await?)
    }

    /// What a tenant has used from the hour on in which `from` is, by capability.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn usage_since(
        &self,
        tenant: TenantId,
        from: Timestamp,
    ) -> Result<Vec<(Capability, UsageSums)>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(UsageRepository::new(&mut conn).sums_since(tenant, from).await?)
    }

    /// A tenant's calls of the last 90 days, the newest first.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn calls(&self, tenant: TenantId, query: &CallsQuery) -> Result<Vec<PastCall>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(UsageRepository::new(&mut conn).calls(tenant, query).await?)
    }

    /// What all tenants were charged for calls from the hour on in which `from` is.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn charged_since(&self, from: Timestamp) -> Result<Money, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(UsageRepository::new(&mut conn).charged_since(from).await?)
    }

    /// Queues a mail to each tenant that has spent in this calendar month (UTC) what it wanted to be told of: once a month
    /// for each of its limits, and once more when it sets the limit to another amount. Whoever has no verified address is
    /// told when there is one. For a periodic task.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn tell_spenders(&self) -> Result<usize, GatewayError> {
        let now = self.inner.clock.now();
        let month = month_of(now);
        let (mut told, mut last) = (0, None);
        loop {
            let (group, mails) = self
                .inner
                .db
                .transaction(async |conn| {
                    let mut mails = 0;
                    let group = UsageRepository::new(conn).lock_spenders(month, last.as_ref(), TOLD_AT_ONCE).await?;
                    for spender in &group {
                        if let Some(recipient) = self.inner.billing.contact_in(conn, spender.tenant).await? {
                            notify::enqueue_in(conn, now, &alert(&recipient, month, spender)).await?;
                            UsageRepository::new(conn).spender_told(now, spender).await?;
                            mails += 1;
                        }
                    }
                    Ok::<_, GatewayError>((group, mails))
                })
                .await?;
            told += mails;
            last = group.into_iter().last();
            if last.is_none() {
                return Ok(told);
            }
        }
    }
}

fn alert(recipient: &str, month: Timestamp, spender: &Spender) -> Mail {
    let Spender { tenant, capability, alert_cents, spent } = spender;
    let dollars =
        |cents: i64| Money::try_from_cents(cents).map_or_else(|error| error.to_string(), |cents| cents.to_string());
    let (spent, alert) = (dollars(spent.as_cents_floor()), dollars(*alert_cents));
    let what = capability.map_or("calls to models", Capability::as_str);
    let month = month.to_zoned(jiff::tz::TimeZone::UTC);
    let cause = format!("{tenant}:{}:{}:{alert_cents}", spender.word(), month.strftime("%Y-%m"));
    let facts = format!("In {} you have spent {spent} on {what}.", month.strftime("%B %Y"));
    let asked =
        format!("You wanted to be told from {alert} on. Calls go on; only a hard cap of yours would stop them.");
    let title = format!("You have spent {alert} on {what} this month");
    templates::notice("spend-alert", &cause, recipient, &title, &[&facts, &asked])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_names_what_was_spent_on_what_and_is_one_for_a_month_and_a_limit() {
        let (tenant, month) = (TenantId::from_uuid(uuid::Uuid::from_u128(7)), Timestamp::constant(1_800_000_000, 0));
        let spender = |capability, alert_cents| Spender {
            tenant,
            capability,
            alert_cents,
            spent: Money::from_nanos(12_349_999_999),
        };
        let all = alert("a@example.com", month_of(month), &spender(None, 1_000));
        assert_eq!(all.subject, "You have spent $10.00 on calls to models this month");
        assert!(
            all.text_body.contains("In January 2027 you have spent $12.34 on calls to models."),
            "{}",
            all.text_body
        );
        assert_eq!(all.dedupe_key, format!("spend-alert:{tenant}:*:2027-01:1000"));
        let speech = alert("a@example.com", month_of(month), &spender(Some(Capability::Tts), 1_000));
        let later = alert("a@example.com", month_of(month), &spender(None, 1_100));
        assert!(speech.dedupe_key != all.dedupe_key && later.dedupe_key != all.dedupe_key);
    }
}
