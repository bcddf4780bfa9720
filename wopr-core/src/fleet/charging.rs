//! Days on which bots are to run become reasons to charge, and reasons become charges.

use diesel_async::AsyncPgConnection;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::error::FleetError;
use super::model::Bot;
use super::repository::BotRepository;
use super::service::Fleet;
use crate::billing::pricing::{RUNTIME_PER_DAY, prorate_first_day};
use crate::billing::{ChargeKind, DayCharge};
use crate::money::Money;

/// Days missed while nobody charged are charged up to this far back; older ones are waived.
const LOOK_BACK_DAYS: i64 = 3;

/// What a run of [`Fleet::charge_due_days`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChargeReport {
    /// Days of bots that are now paid.
    pub charged: usize,
    /// Days of bots that credit did not cover; they stay due.
    pub short: usize,
    /// Components too old to be charged.
    pub waived: usize,
}

impl Fleet {
    /// Charges every day that is due. Takes no arguments and may be run at any time and by several at once: a day is
    /// charged once.
    ///
    /// # Errors
    /// [`FleetError::Storage`], [`FleetError::Billing`].
    pub async fn charge_due_days(&self) -> Result<ChargeReport, FleetError> {
        let now = self.clock().now();
        let since = first_chargeable(now);
        let running = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).list_running().await?
        };
        for id in running {
            self.db()
                .transaction(async |conn| {
                    // Its row first, as everybody does who writes charges: its charges refer to it, and whoever had those
                    // and waited for the row would be waited for by who has the row and is to write them.
                    let bot = BotRepository::new(conn).find_for_update(id).await?;
                    match bot {
                        Some(bot) => accrue_in(conn, &bot, now).await,
                        None => Ok(()),
                    }
                })
                .await?;
        }
        let waived = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).waive_charges(since, now).await?
        };
        if waived > 0 {
            tracing::warn!(
                charges.waived = waived,
                "{waived} charges are more than {LOOK_BACK_DAYS} days old and waived"
            );
        }
        let mut report = ChargeReport { waived, ..ChargeReport::default() };
        let due = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).list_charges_due(since).await?
        };
        let same_day = |a: &super::repository::DueCharge, b: &super::repository::DueCharge| {
            a.bot_id == b.bot_id && a.date == b.date
        };
        for day in due.chunk_by(same_day) {
            let Some(first) = day.first() else { continue };
            let components: Vec<(ChargeKind, Money)> = day.iter().map(|c| (c.component, c.amount)).collect();
            match self.billing().charge_bot_day(first.tenant_id, first.bot_id, first.date, &components).await? {
                DayCharge::Charged(_) => {
                    let mut conn = self.db().connection().await?;
                    BotRepository::new(&mut conn).mark_charged(first.bot_id, first.date, now).await?;
                    report.charged += 1;
                }
                DayCharge::Short { available, required, .. } => {
                    tracing::info!(bot.id = %first.bot_id, tenant.id = %first.tenant_id,
                        "the day {} of bot {} costs {required}, {available} is there", first.date, first.bot_id);
                    report.short += 1;
                }
            }
        }
        Ok(report)
    }
}

/// Writes the reasons to charge `bot` for every day since it began to run, as far back as days are charged.
pub(super) async fn accrue_in(
    conn: &mut AsyncPgConnection,
    bot: &Bot,
    now: Timestamp,
) -> Result<(), crate::db::DbError> {
    let Some(since) = bot.running_since else { return Ok(()) };
    let today = utc_date(now);
    let mut date = utc_date(since).max(first_chargeable(now));
    while date <= today {
        for (component, per_day) in day_price(bot) {
            let amount = prorate_first_day(per_day, bot.created_at, date)
                .map_err(|error| crate::db::DbError::inconsistent("bots", error))?;
            if amount.is_positive() {
                BotRepository::new(conn).add_charge(bot.id, date, component, amount, now).await?;
            }
        }
        let Ok(next) = date.tomorrow() else { break };
        date = next;
    }
    Ok(())
}

fn day_price(bot: &Bot) -> [(ChargeKind, Money); 3] {
    [
        (ChargeKind::Runtime, RUNTIME_PER_DAY),
        (ChargeKind::Resource, bot.resource_tier.per_day()),
        (ChargeKind::Storage, bot.storage_tier.per_day()),
    ]
}

fn utc_date(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn first_chargeable(now: Timestamp) -> Date {
    utc_date(now).saturating_sub(LOOK_BACK_DAYS.days())
}
