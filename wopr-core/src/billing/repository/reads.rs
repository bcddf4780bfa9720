use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use crate::billing::history::{BooksReport, Entry, History, HistoryQuery, MAX_PAGE, WalletDifference};
use crate::billing::ledger::{FundingSource, TransferKind};
use crate::db::DbError;
use crate::ids::{HoldId, TenantId, TransferId, UserId};
use crate::money::Money;

/// Reads that the account statements and reports consist of.
pub(in crate::billing) struct StatementRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

/// The movements of wallet `$1`, one branch for each side so that either uses its index.
macro_rules! movements {
    ($filter:literal, $tail:literal) => {
        concat!(
            "(SELECT t.*, -amount_nanos AS signed FROM ledger_transfers t
              WHERE debit_account = $1 AND debit_account > '00000000-0000-0000-0000-0000000000ff' AND ",
            $filter,
            $tail,
            ") UNION ALL (SELECT t.*, amount_nanos AS signed FROM ledger_transfers t
              WHERE credit_account = $1 AND credit_account > '00000000-0000-0000-0000-0000000000ff' AND ",
            $filter,
            $tail,
            ")"
        )
    };
}

/// The entries of a `page` of movements, with the balance after each: the present balance less all that came later,
/// which reads back no further than the page does.
macro_rules! entries {
    ($page:expr) => {
        concat!(
            "WITH page AS (",
            $page,
            "), oldest AS (SELECT occurred_at, seq FROM page ORDER BY occurred_at, seq LIMIT 1),
             recent AS (",
            movements!("(occurred_at, seq) >= (SELECT occurred_at, seq FROM oldest)", ""),
            "), running AS (
                 SELECT id, (sum(signed) OVER (ORDER BY occurred_at DESC, seq DESC) - signed)::bigint AS later FROM recent)
             SELECT id, signed, (SELECT balance_nanos FROM wallets WHERE tenant_id = $1) - later AS balance_after, kind,
                    reference_key, description, funding_source, attributed_user_id, occurred_at
             FROM page JOIN running USING (id) ORDER BY occurred_at DESC, seq DESC"
        )
    };
}

#[derive(QueryableByName)]
struct EntryRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: Uuid,
    #[diesel(sql_type = BigInt)]
    signed: i64,
    #[diesel(sql_type = BigInt)]
    balance_after: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    reference_key: String,
    #[diesel(sql_type = Nullable<Text>)]
    description: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    funding_source: Option<String>,
    #[diesel(sql_type = Nullable<diesel::sql_types::Uuid>)]
    attributed_user_id: Option<Uuid>,
    #[diesel(sql_type = Timestamptz)]
    occurred_at: jiff_diesel::Timestamp,
}

impl EntryRow {
    fn entry(self, tenant_id: TenantId) -> Result<Entry, DbError> {
        let broken = |what: &str| DbError::inconsistent("ledger_transfers", format!("{}: unknown {what}", self.id));
        let funding = self.funding_source.as_deref();
        Ok(Entry {
            id: TransferId::from_uuid(self.id),
            tenant_id,
            amount: Money::from_nanos(self.signed),
            balance_after: Money::from_nanos(self.balance_after),
            kind: TransferKind::from_word(&self.kind).ok_or_else(|| broken("kind"))?,
            funding_source: funding
                .map(|word| FundingSource::from_word(word).ok_or_else(|| broken("funding source")))
                .transpose()?,
            reference_key: self.reference_key,
            description: self.description,
            attributed_user_id: self.attributed_user_id.map(UserId::from_uuid),
            occurred_at: self.occurred_at.to_jiff(),
        })
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(QueryableByName)]
struct DifferenceRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    tenant_id: Uuid,
    #[diesel(sql_type = BigInt)]
    balance: i64,
    #[diesel(sql_type = BigInt)]
    posted: i64,
    #[diesel(sql_type = BigInt)]
    held: i64,
    #[diesel(sql_type = BigInt)]
    open_holds: i64,
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: Uuid,
}

impl<'c> StatementRepository<'c> {
    pub(in crate::billing) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    pub(in crate::billing) async fn history(
        &mut self,
        tenant: TenantId,
        query: &HistoryQuery,
    ) -> Result<History, DbError> {
        let kinds: Vec<&str> = query.kinds.iter().map(|kind| kind.as_str()).collect();
        let limit = i64::from(query.limit.clamp(1, MAX_PAGE));
        let rows: Vec<EntryRow> = diesel::sql_query(entries!(concat!(
            "SELECT * FROM (",
            movements!(
                "($2 = '{}' OR kind = ANY ($2)) AND ($3 IS NULL OR occurred_at >= $3) AND ($4 IS NULL OR occurred_at < $4)",
                " ORDER BY occurred_at DESC, seq DESC LIMIT $5 + $6"
            ),
            ") both_sides ORDER BY occurred_at DESC, seq DESC LIMIT $5 OFFSET $6"
        )))
        .bind::<diesel::sql_types::Uuid, _>(tenant.as_uuid())
        .bind::<Array<Text>, _>(&kinds)
        .bind::<Nullable<Timestamptz>, _>(query.from.map(jiff_diesel::ToDiesel::to_diesel))
        .bind::<Nullable<Timestamptz>, _>(query.to.map(jiff_diesel::ToDiesel::to_diesel))
        .bind::<BigInt, _>(limit)
        .bind::<BigInt, _>(i64::from(query.offset))
        .load(self.conn)
        .await?;
        let total: Number = diesel::sql_query(concat!(
            "SELECT count(*) AS value FROM (",
            movements!(
                "($2 = '{}' OR kind = ANY ($2)) AND ($3 IS NULL OR occurred_at >= $3) AND ($4 IS NULL OR occurred_at < $4)",
                ""
            ),
            ") both_sides"
        ))
        .bind::<diesel::sql_types::Uuid, _>(tenant.as_uuid())
        .bind::<Array<Text>, _>(&kinds)
        .bind::<Nullable<Timestamptz>, _>(query.from.map(jiff_diesel::ToDiesel::to_diesel))
        .bind::<Nullable<Timestamptz>, _>(query.to.map(jiff_diesel::ToDiesel::to_diesel))
        .get_result(self.conn)
        .await?;
        let entries = rows.into_iter().map(|row| row.entry(tenant)).collect::<Result<_, _>>()?;
        Ok(History { entries, total: u64::try_from(total.value).unwrap_or(0) })
    }

    /// One entry of the tenant's.
    pub(in crate::billing) async fn find_entry(
        &mut self,
        tenant: TenantId,
        id: TransferId,
    ) -> Result<Option<Entry>, DbError> {
        let row: Option<EntryRow> = diesel::sql_query(entries!(movements!("id = $2", "")))
            .bind::<diesel::sql_types::Uuid, _>(tenant.as_uuid())
            .bind::<diesel::sql_types::Uuid, _>(id.as_uuid())
            .get_result(self.conn)
            .await
            .optional()?;
        row.map(|row| row.entry(tenant)).transpose()
    }

    /// What the tenant consumed since then.
    pub(in crate::billing) async fn consumed_since(
        &mut self,
        tenant: TenantId,
        since: Timestamp,
    ) -> Result<Money, DbError> {
        let kinds: Vec<&str> =
            TransferKind::ALL.iter().filter(|kind| kind.is_consumption()).map(|kind| kind.as_str()).collect();
        let sum: Number = diesel::sql_query(
            "SELECT coalesce(sum(amount_nanos), 0)::bigint AS value FROM ledger_transfers
             WHERE debit_account = $1 AND debit_account > '00000000-0000-0000-0000-0000000000ff'
               AND occurred_at >= $2 AND kind = ANY ($3)",
        )
        .bind::<diesel::sql_types::Uuid, _>(tenant.as_uuid())
        .bind::<Timestamptz, _>(since.to_diesel())
        .bind::<Array<Text>, _>(kinds)
        .get_result(self.conn)
        .await?;
        Ok(Money::from_nanos(sum.value))
    }

    /// Compares the projections with the rows, all as of one moment. Call it in a transaction of its own.
    pub(in crate::billing) async fn verify(&mut self) -> Result<BooksReport, DbError> {
        self.conn
            .batch_execute(
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '10min'",
            )
            .await?;
        let differences: Vec<DifferenceRow> = diesel::sql_query(
            "WITH posted AS (
                 SELECT account, sum(signed) AS sum FROM (
                     SELECT debit_account AS account, -amount_nanos AS signed FROM ledger_transfers
                     UNION ALL SELECT credit_account, amount_nanos FROM ledger_transfers) movement
                 WHERE account > '00000000-0000-0000-0000-0000000000ff' GROUP BY account),
             open AS (SELECT account, sum(nanos) AS sum FROM (
                 SELECT tenant_id AS account, held_nanos AS nanos FROM credit_holds WHERE state = 'open'
                 UNION ALL SELECT tenant_id, left_nanos FROM credit_leases) aside GROUP BY 1),
             compared AS (
                 SELECT account AS tenant_id, coalesce(balance_nanos, 0) AS balance, coalesce(posted.sum, 0)::bigint AS posted,
                        coalesce(held_nanos, 0) AS held, coalesce(open.sum, 0)::bigint AS open_holds
                 FROM (SELECT tenant_id AS account, balance_nanos, held_nanos FROM wallets) wallet
                 FULL JOIN posted USING (account) FULL JOIN open USING (account))
             SELECT * FROM compared WHERE balance <> posted OR held <> open_holds ORDER BY tenant_id LIMIT 100",
        )
        .load(self.conn)
        .await?;
        let residue: Number = diesel::sql_query(
            "SELECT ((SELECT coalesce(sum(balance_nanos), 0) FROM wallets)
                 + (SELECT coalesce(sum(amount_nanos), 0) FROM ledger_transfers
                    WHERE credit_account <= '00000000-0000-0000-0000-0000000000ff')
                 - (SELECT coalesce(sum(amount_nanos), 0) FROM ledger_transfers
                    WHERE debit_account <= '00000000-0000-0000-0000-0000000000ff'))::bigint AS value",
        )
        .get_result(self.conn)
        .await?;
        let wrong_captures: Vec<IdRow> = diesel::sql_query(
            "SELECT id FROM credit_holds h LEFT JOIN (
                 SELECT hold_id, sum(amount_nanos) AS sum FROM ledger_transfers WHERE hold_id IS NOT NULL GROUP BY 1
             ) captured ON captured.hold_id = h.id
             WHERE coalesce(captured.sum, 0) <> coalesce(h.actual_nanos + h.overrun_nanos, 0) ORDER BY id LIMIT 100",
        )
        .load(self.conn)
        .await?;
        let wallets: Number = diesel::sql_query("SELECT count(*) AS value FROM wallets").get_result(self.conn).await?;
        Ok(BooksReport {
            wallets: u64::try_from(wallets.value).unwrap_or(0),
            residue: Money::from_nanos(residue.value),
            differences: differences.into_iter().map(DifferenceRow::into_difference).collect(),
            wrong_captures: wrong_captures.into_iter().map(|row| HoldId::from_uuid(row.id)).collect(),
        })
    }
}

impl DifferenceRow {
    fn into_difference(self) -> WalletDifference {
        WalletDifference {
            tenant_id: TenantId::from_uuid(self.tenant_id),
            balance: Money::from_nanos(self.balance),
            posted: Money::from_nanos(self.posted),
            held: Money::from_nanos(self.held),
            open_holds: Money::from_nanos(self.open_holds),
        }
    }
}
