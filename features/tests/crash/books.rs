//! What must be true of the books at the end, asked of the database.

use anyhow::{Context as _, Result, ensure};
use features::wait::PATIENCE;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// What no order of events and no kill may break: each query answers the rows that are wrong.
const INVARIANTS: [(&str, &str); 6] = [
    (
        "every wallet has what its movements add up to",
        "SELECT w.tenant_id, w.balance_nanos FROM wallets w LEFT JOIN LATERAL (
             SELECT coalesce(sum(CASE WHEN credit_account = w.tenant_id THEN amount_nanos ELSE -amount_nanos END), 0) AS total
             FROM ledger_transfers WHERE w.tenant_id IN (debit_account, credit_account)) t ON true
         WHERE w.balance_nanos <> t.total",
    ),
    (
        "every movement has a wallet on each side that is not the platform's",
        "SELECT t.id FROM ledger_transfers t CROSS JOIN LATERAL (VALUES (t.debit_account), (t.credit_account)) a (account)
         WHERE a.account > '00000000-0000-0000-0000-0000000000ff'
           AND NOT EXISTS (SELECT FROM wallets w WHERE w.tenant_id = a.account)",
    ),
    (
        "all accounts together have nothing",
        "SELECT total FROM (SELECT sum(balance) AS total FROM (
             SELECT balance_nanos::numeric AS balance FROM wallets
             UNION ALL
             SELECT CASE WHEN credit_account <= '00000000-0000-0000-0000-0000000000ff' THEN amount_nanos ELSE 0 END
                  - CASE WHEN debit_account <= '00000000-0000-0000-0000-0000000000ff' THEN amount_nanos ELSE 0 END
             FROM ledger_transfers) accounts) sums WHERE total <> 0",
    ),
    (
        "what wallets hold back is what open holds and leases say",
        "SELECT w.tenant_id, w.held_nanos FROM wallets w WHERE w.held_nanos <> (
             SELECT coalesce(sum(held_nanos), 0) FROM credit_holds h WHERE h.tenant_id = w.tenant_id AND h.state = 'open') + (
             SELECT coalesce(sum(left_nanos), 0) FROM credit_leases l WHERE l.tenant_id = w.tenant_id)",
    ),
    (
        "a settled hold was captured once, at what it cost",
        "SELECT h.id FROM credit_holds h WHERE h.state = 'settled' AND (
             SELECT coalesce(sum(amount_nanos), 0) FROM ledger_transfers t WHERE t.hold_id = h.id
         ) <> h.actual_nanos + h.overrun_nanos",
    ),
    (
        "a hold that was not settled was not captured",
        "SELECT h.id FROM credit_holds h WHERE h.state <> 'settled'
           AND EXISTS (SELECT FROM ledger_transfers t WHERE t.hold_id = h.id)",
    ),
];

/// A connection for looking.
pub(crate) struct Books(Client);

impl Books {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        client.simple_query("SET search_path TO wopr").await?;
        Ok(Self(client))
    }

    /// Every row, every column as text.
    pub(crate) async fn rows(&self, query: &str) -> Result<Vec<Vec<Option<String>>>> {
        let answer = tokio::time::timeout(PATIENCE, self.0.simple_query(query)).await;
        let messages = answer.context("the database did not answer").and_then(|answer| Ok(answer?));
        let messages = messages.with_context(|| query.to_owned())?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// One number; nothing counts as zero.
    pub(crate) async fn number(&self, query: &str) -> Result<i64> {
        let rows = self.rows(query).await?;
        let value = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
        value.map_or(Ok(0), |value| value.parse().with_context(|| format!("{query}: {value}")))
    }

    /// Changes something that no interface changes.
    pub(crate) async fn execute(&self, statement: &str) -> Result<()> {
        self.0.batch_execute(statement).await.with_context(|| statement.to_owned())
    }

    /// Waits until the statements of killed processes have ended one way or the other.
    pub(crate) async fn settle_down(&self) -> Result<()> {
        features::wait::until("quiet in the database", async || {
            let busy = self
                .number(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND pid <> pg_backend_pid() AND state <> 'idle'",
                )
                .await?;
            ensure!(busy == 0, "{busy} statements under way");
            Ok(())
        })
        .await
    }

    /// Everything that must be true whatever happened.
    pub(crate) async fn check(&self) -> Result<()> {
        for (what, wrong) in INVARIANTS {
            let rows = self.rows(wrong).await?;
            ensure!(rows.is_empty(), "not true: {what}: {rows:?}");
        }
        Ok(())
    }
}
