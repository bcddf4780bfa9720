use std::collections::{HashMap, HashSet};

use diesel::prelude::*;
use diesel::sql_types;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::refusal;
use crate::billing::BillingError;
use crate::billing::ledger::{Account, Balance, FundingSource, Posted, Transfer, TransferKind};
use crate::db::DbError;
use crate::db::schema::billing::{billing_contacts, ledger_transfers, signup_grants, wallets};
use crate::db::schema::foundation::tenants;
use crate::ids::{HoldId, LeaseHolder, TenantId, TransferId, UserId};
use crate::money::Money;

pub(in crate::billing) struct LedgerRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = ledger_transfers)]
struct TransferRow {
    id: Uuid,
    reference_key: String,
    kind: String,
    debit_account: Uuid,
    credit_account: Uuid,
    amount_nanos: i64,
    occurred_at: jiff_diesel::Timestamp,
}

impl TryFrom<TransferRow> for Posted {
    type Error = DbError;

    fn try_from(row: TransferRow) -> Result<Self, DbError> {
        let broken = |what: &str| DbError::inconsistent("ledger_transfers", format!("{}: {what}", row.id));
        let account = |uuid| Account::from_uuid(uuid).ok_or_else(|| broken("unknown account"));
        Ok(Self {
            id: TransferId::from_uuid(row.id),
            kind: TransferKind::from_word(&row.kind).ok_or_else(|| broken("unknown kind"))?,
            debit: account(row.debit_account)?,
            credit: account(row.credit_account)?,
            amount: Money::from_nanos(row.amount_nanos),
            occurred_at: row.occurred_at.to_jiff(),
            fresh: false,
            reference_key: row.reference_key,
        })
    }
}

impl<'c> LedgerRepository<'c> {
    pub(in crate::billing) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Inserts what is new, in one statement, and answers for every transfer, in order, what the ledger now holds
    /// under its key.
    pub(in crate::billing) async fn post(
        &mut self,
        at: Timestamp,
        transfers: &[Transfer],
    ) -> Result<Vec<Posted>, BillingError> {
        let ids: Vec<TransferId> = transfers.iter().map(|_| TransferId::new(at)).collect();
        let inserted = match transfers {
            [] => return Ok(Vec::new()),
            [transfer] => self.insert_one(at, ids[0], transfer).await,
            _ => self.insert_group(at, &ids, transfers).await,
        };
        let tenants =
            transfers.iter().flat_map(|transfer| [transfer.debit, transfer.credit]).filter_map(Account::tenant);
        let inserted: HashSet<Uuid> = inserted.map_err(|error| refusal(error, tenants))?.into_iter().collect();
        let mut stored = if inserted.len() == transfers.len() {
            HashMap::new()
        } else {
            let seen = transfers.iter().zip(&ids).filter(|(_, id)| !inserted.contains(&id.as_uuid()));
            self.find_by_keys(&seen.map(|(transfer, _)| transfer.reference_key.as_str()).collect::<Vec<_>>()).await?
        };
        transfers
            .iter()
            .zip(ids)
            .map(|(transfer, id)| {
                if inserted.contains(&id.as_uuid()) {
                    return Ok(fresh(id, at, transfer));
                }
                let found = stored.remove(&transfer.reference_key).ok_or_else(|| {
                    DbError::inconsistent("ledger_transfers", format!("{id} was neither inserted nor found"))
                })?;
                let answer = found.clone().answer(transfer)?;
                // Twice the same key in one group: it is asked again.
                stored.insert(transfer.reference_key.clone(), found);
                Ok(answer)
            })
            .collect()
    }

    async fn insert_one(&mut self, at: Timestamp, id: TransferId, transfer: &Transfer) -> QueryResult<Vec<Uuid>> {
        // Built with the query builder, whose statements are prepared once for each connection.
        diesel::insert_into(ledger_transfers::table)
            .values((
                ledger_transfers::id.eq(id.as_uuid()),
                ledger_transfers::reference_key.eq(&transfer.reference_key),
                ledger_transfers::kind.eq(transfer.kind.as_str()),
                ledger_transfers::debit_account.eq(transfer.debit.as_uuid()),
                ledger_transfers::credit_account.eq(transfer.credit.as_uuid()),
                ledger_transfers::amount_nanos.eq(transfer.amount.as_nanos()),
                ledger_transfers::hold_id.eq(transfer.hold.map(HoldId::as_uuid)),
                ledger_transfers::lease_holder.eq(transfer.lease.map(LeaseHolder::as_uuid)),
                ledger_transfers::reverses.eq(transfer.reverses.map(TransferId::as_uuid)),
                ledger_transfers::funding_source.eq(transfer.funding_source.map(FundingSource::as_str)),
                ledger_transfers::attributed_user_id.eq(transfer.attributed_user_id.map(UserId::as_uuid)),
                ledger_transfers::description.eq(transfer.description.as_deref()),
                ledger_transfers::actor_kind.eq(transfer.actor.kind()),
                ledger_transfers::actor.eq(transfer.actor.name()),
                ledger_transfers::occurred_at.eq(at.to_diesel()),
            ))
            .on_conflict(ledger_transfers::reference_key)
            .do_nothing()
            .returning(ledger_transfers::id)
            .get_results(self.conn)
            .await
    }

    async fn insert_group(
        &mut self,
        at: Timestamp,
        ids: &[TransferId],
        transfers: &[Transfer],
    ) -> QueryResult<Vec<Uuid>> {
        use sql_types::{Array, BigInt, Nullable, Text, Timestamptz};
        #[derive(QueryableByName)]
        struct Inserted {
            #[diesel(sql_type = sql_types::Uuid)]
            id: Uuid,
        }
        fn column<T>(transfers: &[Transfer], value: impl Fn(&Transfer) -> T) -> Vec<T> {
            transfers.iter().map(value).collect()
        }
        // Ordered by key, so that two groups with keys in common wait for each other instead of deadlocking.
        let rows: Vec<Inserted> = diesel::sql_query(
            "INSERT INTO ledger_transfers (id, reference_key, kind, debit_account, credit_account, amount_nanos, hold_id,
                 reverses, funding_source, attributed_user_id, description, actor_kind, actor, lease_holder, occurred_at)
             SELECT *, $15 FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::bigint[], $7::uuid[],
                 $8::uuid[], $9::text[], $10::uuid[], $11::text[], $12::text[], $13::text[], $14::uuid[])
                 AS wanted (id, reference_key)
             ORDER BY wanted.reference_key
             ON CONFLICT (reference_key) DO NOTHING RETURNING id",
        )
        .bind::<Array<sql_types::Uuid>, _>(ids.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(column(transfers, |t| t.reference_key.clone()))
        .bind::<Array<Text>, _>(column(transfers, |t| t.kind.as_str()))
        .bind::<Array<sql_types::Uuid>, _>(column(transfers, |t| t.debit.as_uuid()))
        .bind::<Array<sql_types::Uuid>, _>(column(transfers, |t| t.credit.as_uuid()))
        .bind::<Array<BigInt>, _>(column(transfers, |t| t.amount.as_nanos()))
        .bind::<Array<Nullable<sql_types::Uuid>>, _>(column(transfers, |t| t.hold.map(HoldId::as_uuid)))
        .bind::<Array<Nullable<sql_types::Uuid>>, _>(column(transfers, |t| t.reverses.map(TransferId::as_uuid)))
        .bind::<Array<Nullable<Text>>, _>(column(transfers, |t| t.funding_source.map(FundingSource::as_str)))
        .bind::<Array<Nullable<sql_types::Uuid>>, _>(column(transfers, |t| t.attributed_user_id.map(UserId::as_uuid)))
        .bind::<Array<Nullable<Text>>, _>(column(transfers, |t| t.description.clone()))
        .bind::<Array<Text>, _>(column(transfers, |t| t.actor.kind()))
        .bind::<Array<Text>, _>(column(transfers, |t| t.actor.name()))
        .bind::<Array<Nullable<sql_types::Uuid>>, _>(column(transfers, |t| t.lease.map(LeaseHolder::as_uuid)))
        .bind::<Timestamptz, _>(at.to_diesel())
        .load(self.conn)
        .await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// What the ledger holds under these keys.
    pub(in crate::billing) async fn find_by_keys(&mut self, keys: &[&str]) -> Result<HashMap<String, Posted>, DbError> {
        let rows: Vec<TransferRow> = ledger_transfers::table
            .filter(ledger_transfers::reference_key.eq_any(keys))
            .select(TransferRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(|row| Posted::try_from(row).map(|posted| (posted.reference_key.clone(), posted))).collect()
    }

    /// What the tenant has; nothing if nothing was ever posted.
    pub(in crate::billing) async fn balance(&mut self, tenant: TenantId) -> Result<Balance, DbError> {
        let row: Option<(i64, i64)> = wallets::table
            .find(tenant.as_uuid())
            .select((wallets::balance_nanos, wallets::held_nanos))
            .first(self.conn)
            .await
            .optional()?;
        row.map_or(Ok(Balance::default()), balance)
    }

    /// As [`Self::balance`], keeping it as it is until the transaction ends.
    pub(in crate::billing) async fn lock_balance(&mut self, tenant: TenantId) -> Result<Balance, DbError> {
        let row: Option<(i64, i64)> = wallets::table
            .find(tenant.as_uuid())
            .select((wallets::balance_nanos, wallets::held_nanos))
            .for_no_key_update()
            .first(self.conn)
            .await
            .optional()?;
        row.map_or(Ok(Balance::default()), balance)
    }

    /// Claims the one signup grant of the tenant and of the address; `false` if either has had it.
    pub(in crate::billing) async fn claim_signup_grant(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        email_sha256: &[u8],
    ) -> Result<bool, DbError> {
        let claimed = diesel::insert_into(signup_grants::table)
            .values((
                signup_grants::tenant_id.eq(tenant.as_uuid()),
                signup_grants::email_sha256.eq(email_sha256),
                signup_grants::granted_at.eq(at.to_diesel()),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)
            .await?;
        Ok(claimed == 1)
    }

    /// Makes a tenant that is nobody's personal one.
    pub(in crate::billing) async fn insert_tenant(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        name: &str,
    ) -> Result<(), DbError> {
        diesel::insert_into(tenants::table)
            .values((
                tenants::id.eq(tenant.as_uuid()),
                tenants::kind.eq("organisation"),
                tenants::name.eq(name),
                tenants::created_at.eq(at.to_diesel()),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Where mails about the tenant's credit go from now on.
    pub(in crate::billing) async fn save_contact(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        email: &str,
    ) -> Result<(), DbError> {
        let values = (billing_contacts::email.eq(email), billing_contacts::updated_at.eq(at.to_diesel()));
        diesel::insert_into(billing_contacts::table)
            .values((billing_contacts::tenant_id.eq(tenant.as_uuid()), values))
            .on_conflict(billing_contacts::tenant_id)
            .do_update()
            .set(values)
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(in crate::billing) async fn find_contact(&mut self, tenant: TenantId) -> Result<Option<String>, DbError> {
        Ok(billing_contacts::table
            .find(tenant.as_uuid())
            .select(billing_contacts::email)
            .first(self.conn)
            .await
            .optional()?)
    }
}

fn fresh(id: TransferId, at: Timestamp, transfer: &Transfer) -> Posted {
    Posted {
        id,
        reference_key: transfer.reference_key.clone(),
        kind: transfer.kind,
        debit: transfer.debit,
        credit: transfer.credit,
        amount: transfer.amount,
        occurred_at: at,
        fresh: true,
    }
}

fn balance((balance, held): (i64, i64)) -> Result<Balance, DbError> {
    let (balance, held) = (Money::from_nanos(balance), Money::from_nanos(held));
    let available = balance.try_sub(held).map_err(|error| DbError::inconsistent("wallets", error))?;
    Ok(Balance { balance, held, available })
}
