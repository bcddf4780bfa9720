use std::collections::{BTreeMap, BTreeSet};

use diesel::dsl::{exists, not, select};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff_diesel::ToDiesel;
use uuid::Uuid;

use super::image::ImageReference;
use super::model::{Bot, BotSpec, DesiredState, Phase, Seen};
use super::network::{NetworkRange, Subnet};
use super::ports::{ContainerHealth, ContainerState};
use super::settings::{BotEnv, Discovery};
use crate::billing::{ChargeKind, ResourceTier, StorageTier};
use crate::db::DbError;
use crate::db::schema::fleet::{bot_charges, bot_progress, bots, tenant_networks};
use crate::ids::{BotId, TenantId, UserId};
use crate::money::Money;

#[derive(Queryable, Selectable)]
#[diesel(table_name = bots, check_for_backend(diesel::pg::Pg))]
struct BotRow {
    id: Uuid,
    tenant_id: Uuid,
    created_by: Option<Uuid>,
    name: String,
    description: String,
    spec: serde_json::Value,
    fallback: Option<serde_json::Value>,
    release_channel: String,
    update_policy: String,
    resource_tier: String,
    storage_tier: String,
    desired_state: String,
    generation: i64,
    running_since: Option<jiff_diesel::Timestamp>,
    created_at: jiff_diesel::Timestamp,
    updated_at: jiff_diesel::Timestamp,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = bot_progress, check_for_backend(diesel::pg::Pg))]
struct ProgressRow {
    phase: String,
    restart_wanted: bool,
    suspended_at: Option<jiff_diesel::Timestamp>,
    destroy_after: Option<jiff_diesel::Timestamp>,
    container_id: Option<String>,
    container_state: Option<String>,
    container_health: Option<String>,
    container_started_at: Option<jiff_diesel::Timestamp>,
    container_created_at: Option<jiff_diesel::Timestamp>,
    keyed_container: Option<String>,
    last_error: Option<String>,
    attempts: i32,
    remade: bool,
    next_attempt_at: Option<jiff_diesel::Timestamp>,
}

/// What runs, as it is stored.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSpec {
    image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    env: BTreeMap<String, String>,
    restart_policy: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    discovery: Option<StoredDiscovery>,
    #[serde(default)]
    volume: u32,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDiscovery {
    enabled: bool,
    topics: Vec<String>,
}

fn inconsistent(detail: impl ToString) -> DbError {
    DbError::inconsistent("bots", detail)
}

fn store_spec(spec: &BotSpec) -> Result<serde_json::Value, DbError> {
    let discovery = spec.discovery.as_ref();
    let stored = StoredSpec {
        image: spec.image.to_string(),
        digest: spec.digest.as_ref().map(ToString::to_string),
        env: spec.env.variables().clone(),
        restart_policy: spec.restart_policy.as_str().to_owned(),
        discovery: discovery.map(|d| StoredDiscovery { enabled: d.enabled(), topics: d.topics().to_vec() }),
        volume: spec.volume,
    };
    serde_json::to_value(stored).map_err(inconsistent)
}

fn read_spec(value: serde_json::Value) -> Result<BotSpec, DbError> {
    let stored: StoredSpec = serde_json::from_value(value).map_err(inconsistent)?;
    let image: ImageReference = stored.image.parse().map_err(inconsistent)?;
    Ok(BotSpec {
        image,
        digest: stored.digest.map(|digest| digest.parse()).transpose().map_err(inconsistent)?,
        env: BotEnv::new(stored.env).map_err(inconsistent)?,
        restart_policy: stored.restart_policy.parse().map_err(inconsistent)?,
        discovery: stored
            .discovery
            .map(|discovery| Discovery::new(discovery.enabled, discovery.topics))
            .transpose()
            .map_err(inconsistent)?,
        volume: stored.volume,
    })
}

fn known<T>(word: &str, parsed: Option<T>) -> Result<T, DbError> {
    parsed.ok_or_else(|| inconsistent(format!("{word:?} is not known")))
}

fn time(value: Option<jiff_diesel::Timestamp>) -> Option<Timestamp> {
    value.map(jiff_diesel::Timestamp::to_jiff)
}

fn assemble((row, progress): (BotRow, ProgressRow)) -> Result<Bot, DbError> {
    let container_state = progress.container_state.as_deref();
    let health = progress.container_health.as_deref();
    Ok(Bot {
        id: BotId::from_uuid(row.id),
        tenant_id: TenantId::from_uuid(row.tenant_id),
        created_by: row.created_by.map(UserId::from_uuid),
        name: row.name.parse().map_err(inconsistent)?,
        description: row.description,
        spec: read_spec(row.spec)?,
        fallback: row.fallback.map(read_spec).transpose()?,
        release_channel: row.release_channel.parse().map_err(inconsistent)?,
        update_policy: row.update_policy.parse().map_err(inconsistent)?,
        resource_tier: known(&row.resource_tier, ResourceTier::from_word(&row.resource_tier))?,
        storage_tier: known(&row.storage_tier, StorageTier::from_word(&row.storage_tier))?,
        desired: known(&row.desired_state, DesiredState::from_word(&row.desired_state))?,
        generation: row.generation,
        restart_wanted: progress.restart_wanted,
        suspended_at: time(progress.suspended_at),
        destroy_after: time(progress.destroy_after),
        running_since: time(row.running_since),
        phase: known(&progress.phase, Phase::from_word(&progress.phase))?,
        seen: Seen {
            container_id: progress.container_id,
            container_state: container_state.map(|word| known(word, ContainerState::from_word(word))).transpose()?,
            health: health.map(|word| known(word, ContainerHealth::from_word(word))).transpose()?,
            started_at: time(progress.container_started_at),
            created_at: time(progress.container_created_at),
        },
        keyed_container: progress.keyed_container,
        last_error: progress.last_error,
        attempts: progress.attempts,
        remade: progress.remade,
        next_attempt_at: time(progress.next_attempt_at),
        created_at: row.created_at.to_jiff(),
        updated_at: row.updated_at.to_jiff(),
    })
}

/// A component of a bot's day that is still to be charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueCharge {
    pub(super) tenant_id: TenantId,
    pub(super) bot_id: BotId,
    pub(super) date: Date,
    pub(super) component: ChargeKind,
    pub(super) amount: Money,
}

pub(super) struct BotRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> BotRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    pub(super) async fn insert(&mut self, bot: &Bot) -> Result<(), DbError> {
        diesel::insert_into(bots::table)
            .values((
                bots::id.eq(bot.id.as_uuid()),
                bots::tenant_id.eq(bot.tenant_id.as_uuid()),
                bots::created_by.eq(bot.created_by.map(UserId::as_uuid)),
                bots::name.eq(bot.name.as_str()),
                bots::description.eq(&bot.description),
                bots::spec.eq(store_spec(&bot.spec)?),
                bots::release_channel.eq(bot.release_channel.as_str()),
                bots::update_policy.eq(bot.update_policy.as_str()),
                bots::resource_tier.eq(bot.resource_tier.as_str()),
                bots::storage_tier.eq(bot.storage_tier.as_str()),
                bots::desired_state.eq(bot.desired.as_str()),
                bots::generation.eq(bot.generation),
                bots::running_since.eq(bot.running_since.map(ToDiesel::to_diesel)),
                bots::created_at.eq(bot.created_at.to_diesel()),
                bots::updated_at.eq(bot.updated_at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        diesel::insert_into(bot_progress::table)
            .values((
                bot_progress::bot_id.eq(bot.id.as_uuid()),
                bot_progress::phase.eq(bot.phase.as_str()),
                bot_progress::next_attempt_at.eq(bot.next_attempt_at.map(ToDiesel::to_diesel)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// One bot of any tenant, destroyed ones included.
    pub(super) async fn find(&mut self, id: BotId) -> Result<Option<Bot>, DbError> {
        let row: Option<(BotRow, ProgressRow)> = bots::table
            .inner_join(bot_progress::table)
            .filter(bots::id.eq(id.as_uuid()))
            .select((BotRow::as_select(), ProgressRow::as_select()))
            .first(self.conn)
            .await
            .optional()?;
        row.map(assemble).transpose()
    }

    /// One of the tenant's bots that is not gone or going.
    pub(super) async fn find_of(&mut self, tenant: TenantId, id: BotId) -> Result<Option<Bot>, DbError> {
        let found = self.find(id).await?;
        Ok(found.filter(|bot| bot.tenant_id == tenant && bot.desired != DesiredState::Destroyed))
    }

    /// As [`Self::find`], and locks what is wanted of it until the transaction ends.
    pub(super) async fn find_for_update(&mut self, id: BotId) -> Result<Option<Bot>, DbError> {
        let locked: Option<Uuid> =
            bots::table.find(id.as_uuid()).select(bots::id).for_update().first(self.conn).await.optional()?;
        if locked.is_none() {
            return Ok(None);
        }
        self.find(id).await
    }

    /// Whether the tenant had bots in this database and has none that is to stay.
    pub(super) async fn has_only_former_bots(&mut self, tenant: TenantId) -> Result<bool, DbError> {
        let of_tenant = bots::table.filter(bots::tenant_id.eq(tenant.as_uuid()));
        let staying = of_tenant.filter(bots::desired_state.ne(DesiredState::Destroyed.as_str()));
        let (any, staying): (bool, bool) = select((exists(of_tenant), exists(staying))).get_result(self.conn).await?;
        Ok(any && !staying)
    }

    /// The tenant's bots, or everybody's, oldest first; none that are gone or going.
    pub(super) async fn list(&mut self, tenant: Option<TenantId>) -> Result<Vec<Bot>, DbError> {
        let mut query = bots::table
            .inner_join(bot_progress::table)
            .filter(bots::desired_state.ne(DesiredState::Destroyed.as_str()))
            .order((bots::created_at, bots::id))
            .select((BotRow::as_select(), ProgressRow::as_select()))
            .into_boxed();
        if let Some(tenant) = tenant {
            query = query.filter(bots::tenant_id.eq(tenant.as_uuid()));
        }
        let rows: Vec<(BotRow, ProgressRow)> = query.load(self.conn).await?;
        rows.into_iter().map(assemble).collect()
    }

    /// Who has bots that are not gone or going.
    pub(super) async fn list_tenants(&mut self) -> Result<BTreeSet<TenantId>, DbError> {
        let tenants: Vec<Uuid> = bots::table
            .filter(bots::desired_state.ne(DesiredState::Destroyed.as_str()))
            .select(bots::tenant_id)
            .distinct()
            .load(self.conn)
            .await?;
        Ok(tenants.into_iter().map(TenantId::from_uuid).collect())
    }

    /// How many bots are to run.
    pub(super) async fn count_wanted_running(&mut self) -> Result<u64, DbError> {
        let count: i64 = bots::table
            .filter(bots::desired_state.eq(DesiredState::Running.as_str()))
            .count()
            .get_result(self.conn)
            .await?;
        u64::try_from(count).map_err(|error| DbError::inconsistent("bots", error))
    }

    /// Writes what is wanted: everything the owner can change, under the next generation.
    pub(super) async fn save_wanted(&mut self, bot: &Bot) -> Result<(), DbError> {
        diesel::update(bots::table.find(bot.id.as_uuid()))
            .set((
                bots::name.eq(bot.name.as_str()),
                bots::description.eq(&bot.description),
                bots::spec.eq(store_spec(&bot.spec)?),
                bots::fallback.eq(bot.fallback.as_ref().map(store_spec).transpose()?),
                bots::release_channel.eq(bot.release_channel.as_str()),
                bots::update_policy.eq(bot.update_policy.as_str()),
                bots::desired_state.eq(bot.desired.as_str()),
                bots::generation.eq(bot.generation),
                bots::running_since.eq(bot.running_since.map(ToDiesel::to_diesel)),
                bots::updated_at.eq(bot.updated_at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Writes how far it has got, whoever has the lease: for changes of what is wanted, which lock the bot.
    pub(super) async fn save_progress(&mut self, bot: &Bot) -> Result<(), DbError> {
        diesel::update(bot_progress::table.find(bot.id.as_uuid()))
            .set((
                bot_progress::phase.eq(bot.phase.as_str()),
                bot_progress::restart_wanted.eq(bot.restart_wanted),
                bot_progress::suspended_at.eq(bot.suspended_at.map(ToDiesel::to_diesel)),
                bot_progress::destroy_after.eq(bot.destroy_after.map(ToDiesel::to_diesel)),
                bot_progress::container_id.eq(&bot.seen.container_id),
                bot_progress::container_state.eq(bot.seen.container_state.map(ContainerState::as_str)),
                bot_progress::container_health.eq(bot.seen.health.map(ContainerHealth::as_str)),
                bot_progress::container_started_at.eq(bot.seen.started_at.map(ToDiesel::to_diesel)),
                bot_progress::container_created_at.eq(bot.seen.created_at.map(ToDiesel::to_diesel)),
                bot_progress::keyed_container.eq(&bot.keyed_container),
                bot_progress::last_error.eq(&bot.last_error),
                bot_progress::attempts.eq(bot.attempts),
                bot_progress::remade.eq(bot.remade),
                bot_progress::next_attempt_at.eq(bot.next_attempt_at.map(ToDiesel::to_diesel)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Takes the bot for `owner` unless somebody else has it.
    pub(super) async fn lease(
        &mut self,
        id: BotId,
        owner: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, DbError> {
        let free = bot_progress::lease_until
            .is_null()
            .or(bot_progress::lease_until.assume_not_null().le(now.to_diesel()))
            .or(bot_progress::lease_owner.assume_not_null().eq(owner));
        let taken = diesel::update(bot_progress::table.filter(bot_progress::bot_id.eq(id.as_uuid())).filter(free))
            .set((bot_progress::lease_owner.eq(Some(owner)), bot_progress::lease_until.eq(Some(until.to_diesel()))))
            .execute(self.conn)
            .await?;
        Ok(taken == 1)
    }

    /// Gives the bot back.
    pub(super) async fn release(&mut self, id: BotId, owner: Uuid) -> Result<(), DbError> {
        diesel::update(bot_progress::table.find(id.as_uuid()))
            .filter(bot_progress::lease_owner.eq(owner))
            .set((
                bot_progress::lease_owner.eq(None::<Uuid>),
                bot_progress::lease_until.eq(None::<jiff_diesel::Timestamp>),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Whether `owner` has the bot.
    pub(super) async fn is_leased_by(&mut self, id: BotId, owner: Uuid) -> Result<bool, DbError> {
        let held = bot_progress::table.find(id.as_uuid()).filter(bot_progress::lease_owner.eq(owner));
        Ok(select(exists(held)).get_result(self.conn).await?)
    }

    /// Looks at the bot again as soon as possible.
    pub(super) async fn make_due(&mut self, id: BotId, now: Timestamp) -> Result<(), DbError> {
        diesel::update(bot_progress::table.find(id.as_uuid()))
            .set(bot_progress::next_attempt_at.eq(Some(now.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Bots to look at now that nobody is looking at, longest due first.
    pub(super) async fn list_due(&mut self, now: Timestamp, limit: i64) -> Result<Vec<BotId>, DbError> {
        let ids: Vec<Uuid> = bot_progress::table
            .filter(bot_progress::next_attempt_at.le(now.to_diesel()))
            .filter(
                bot_progress::lease_until.is_null().or(bot_progress::lease_until.assume_not_null().le(now.to_diesel())),
            )
            .order(bot_progress::next_attempt_at)
            .limit(limit)
            .select(bot_progress::bot_id)
            .load(self.conn)
            .await?;
        Ok(ids.into_iter().map(BotId::from_uuid).collect())
    }

    /// Every bot that is not gone and is not waiting for its next attempt.
    pub(super) async fn list_to_observe(&mut self, now: Timestamp) -> Result<Vec<BotId>, DbError> {
        let ids: Vec<Uuid> = bot_progress::table
            .filter(bot_progress::phase.ne(Phase::Destroyed.as_str()))
            .filter(
                bot_progress::next_attempt_at
                    .is_null()
                    .or(bot_progress::next_attempt_at.assume_not_null().le(now.to_diesel())),
            )
            .select(bot_progress::bot_id)
            .load(self.conn)
            .await?;
        Ok(ids.into_iter().map(BotId::from_uuid).collect())
    }

    /// Writes a reason to charge, unless there is one for that component and day.
    pub(super) async fn add_charge(
        &mut self,
        bot: BotId,
        date: Date,
        component: ChargeKind,
        amount: Money,
        now: Timestamp,
    ) -> Result<(), DbError> {
        diesel::insert_into(bot_charges::table)
            .values((
                bot_charges::bot_id.eq(bot.as_uuid()),
                bot_charges::date.eq(date.to_diesel()),
                bot_charges::component.eq(component.as_str()),
                bot_charges::amount_nanos.eq(amount.as_nanos()),
                bot_charges::state.eq("due"),
                bot_charges::created_at.eq(now.to_diesel()),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// The bots that are to run and may.
    pub(super) async fn list_running(&mut self) -> Result<Vec<BotId>, DbError> {
        let ids: Vec<Uuid> = bots::table
            .filter(bots::running_since.is_not_null())
            .order(bots::id)
            .select(bots::id)
            .load(self.conn)
            .await?;
        Ok(ids.into_iter().map(BotId::from_uuid).collect())
    }

    /// What is still to be charged, oldest day first, a bot's day together.
    pub(super) async fn list_charges_due(&mut self, since: Date) -> Result<Vec<DueCharge>, DbError> {
        let rows: Vec<(Uuid, Uuid, jiff_diesel::Date, String, i64)> = bot_charges::table
            .inner_join(bots::table)
            .filter(bot_charges::state.eq("due"))
            .filter(bot_charges::date.ge(since.to_diesel()))
            .order((bot_charges::date, bot_charges::bot_id, bot_charges::component))
            .select((
                bots::tenant_id,
                bot_charges::bot_id,
                bot_charges::date,
                bot_charges::component,
                bot_charges::amount_nanos,
            ))
            .load(self.conn)
            .await?;
        rows.into_iter()
            .map(|(tenant, bot, date, component, amount)| {
                let unknown = || DbError::inconsistent("bot_charges", &component);
                Ok(DueCharge {
                    tenant_id: TenantId::from_uuid(tenant),
                    bot_id: BotId::from_uuid(bot),
                    date: date.to_jiff(),
                    component: ChargeKind::from_word(&component).ok_or_else(unknown)?,
                    amount: Money::from_nanos(amount),
                })
            })
            .collect()
    }

    /// Records that a bot's day was charged.
    pub(super) async fn mark_charged(&mut self, bot: BotId, date: Date, now: Timestamp) -> Result<(), DbError> {
        diesel::update(bot_charges::table)
            .filter(bot_charges::bot_id.eq(bot.as_uuid()))
            .filter(bot_charges::date.eq(date.to_diesel()))
            .filter(bot_charges::state.eq("due"))
            .set((bot_charges::state.eq("charged"), bot_charges::decided_at.eq(Some(now.to_diesel()))))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Gives up what is older than `before` and answers how many components that were.
    pub(super) async fn waive_charges(&mut self, before: Date, now: Timestamp) -> Result<usize, DbError> {
        let waived = diesel::update(bot_charges::table)
            .filter(bot_charges::state.eq("due"))
            .filter(bot_charges::date.lt(before.to_diesel()))
            .set((bot_charges::state.eq("waived"), bot_charges::decided_at.eq(Some(now.to_diesel()))))
            .execute(self.conn)
            .await?;
        Ok(waived)
    }
}

/// The addresses of tenants' networks.
pub(super) struct NetworkRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

#[derive(QueryableByName)]
struct FreeRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

impl<'c> NetworkRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Keeps others from choosing until the transaction ends.
    pub(super) async fn lock(&mut self) -> Result<(), DbError> {
        diesel::sql_query("LOCK TABLE tenant_networks IN SHARE ROW EXCLUSIVE MODE").execute(self.conn).await?;
        Ok(())
    }

    /// The number of the tenant's network; nothing if it has none in this range.
    pub(super) async fn find(&mut self, range: NetworkRange, tenant: TenantId) -> Result<Option<u32>, DbError> {
        let row: Option<(i64, i32)> = tenant_networks::table
            .find(tenant.as_uuid())
            .select((tenant_networks::first_address, tenant_networks::addresses))
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.and_then(|(first, addresses)| range.number_of(first, addresses)))
    }

    /// The first network that no tenant has, from that number on and then from the beginning.
    pub(super) async fn find_free(&mut self, range: NetworkRange, from: u32) -> Result<Option<Subnet>, DbError> {
        for (from, to) in [(from, range.count()), (0, from)] {
            let row: Option<FreeRow> = diesel::sql_query(
                "SELECT number FROM generate_series($1, $2 - 1) number
                 CROSS JOIN LATERAL (SELECT $3 + number * $4 AS first_address) own
                 WHERE NOT EXISTS (SELECT FROM tenant_networks t
                     WHERE int8range(t.first_address, t.first_address + t.addresses)
                        && int8range(own.first_address, own.first_address + $4))
                 ORDER BY number LIMIT 1",
            )
            .bind::<diesel::sql_types::BigInt, _>(i64::from(from))
            .bind::<diesel::sql_types::BigInt, _>(i64::from(to))
            .bind::<diesel::sql_types::BigInt, _>(i64::from(range.nth(0).first()))
            .bind::<diesel::sql_types::BigInt, _>(i64::from(range.nth(0).addresses()))
            .get_result(self.conn)
            .await
            .optional()?;
            if let Some(number) = row.and_then(|row| u32::try_from(row.number).ok()) {
                return Ok(Some(range.nth(number)));
            }
        }
        Ok(None)
    }

    /// Gives the tenant these addresses instead of any it had.
    pub(super) async fn save(&mut self, tenant: TenantId, subnet: Subnet, now: Timestamp) -> Result<(), DbError> {
        let addresses =
            i32::try_from(subnet.addresses()).map_err(|error| DbError::inconsistent("tenant_networks", error))?;
        let values = (
            tenant_networks::first_address.eq(i64::from(subnet.first())),
            tenant_networks::addresses.eq(addresses),
            tenant_networks::created_at.eq(now.to_diesel()),
        );
        diesel::insert_into(tenant_networks::table)
            .values((tenant_networks::tenant_id.eq(tenant.as_uuid()), values))
            .on_conflict(tenant_networks::tenant_id)
            .do_update()
            .set(values)
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Takes the addresses back of a tenant that has no bot which is to stay.
    pub(super) async fn remove_if_unneeded(&mut self, tenant: TenantId) -> Result<(), DbError> {
        let staying = bots::table
            .filter(bots::tenant_id.eq(tenant.as_uuid()))
            .filter(bots::desired_state.ne(DesiredState::Destroyed.as_str()));
        let unneeded =
            tenant_networks::table.filter(tenant_networks::tenant_id.eq(tenant.as_uuid())).filter(not(exists(staying)));
        diesel::delete(unneeded).execute(self.conn).await?;
        Ok(())
    }
}
