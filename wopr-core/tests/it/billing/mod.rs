mod charges;
mod holds;
mod ledger;
mod standing;
mod statement;

use std::sync::Arc;

use diesel::sql_types::{BigInt, Text, Uuid};
use diesel_async::RunQueryDsl;
use wopr_core::audit::Actor;
use wopr_core::billing::{Billing, BillingConfig, Transfer, TransferKind};
use wopr_core::clock::Clock as _;
use wopr_core::ids::TenantId;
use wopr_core::money::Money;
use wopr_core::testing::{FixedClock, TestDb};

/// Billing on a database of its own.
struct Books {
    test: TestDb,
    clock: FixedClock,
    billing: Billing,
}

#[derive(diesel::QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

impl Books {
    async fn open() -> Self {
        let test = TestDb::create().await;
        let clock = FixedClock::default();
        let billing = Billing::new(test.db.clone(), Arc::new(clock.clone()), BillingConfig::default());
        Self { test, clock, billing }
    }

    async fn tenant(&self) -> TenantId {
        let tenant = TenantId::new(self.clock.now());
        let mut conn = self.test.db.connection().await.unwrap();
        diesel::sql_query("INSERT INTO tenants VALUES ($1, 'personal', $2, '2027-01-01')")
            .bind::<Uuid, _>(tenant.as_uuid())
            .bind::<Text, _>("Ann")
            .execute(&mut conn)
            .await
            .unwrap();
        tenant
    }

    /// A tenant with that many cents.
    async fn customer(&self, cents: i32) -> TenantId {
        let tenant = self.tenant().await;
        self.billing.post(&[purchase(&format!("cs_{tenant}"), tenant, cents)]).await.unwrap();
        tenant
    }

    /// What a query answers in its column `value`.
    async fn number(&self, query: &str) -> i64 {
        let mut conn = self.test.db.connection().await.unwrap();
        let row: Number = diesel::sql_query(query).get_result(&mut conn).await.unwrap();
        row.value
    }

    /// The invariants that hold at any time, from the rows alone.
    async fn assert_balanced(&self) {
        let wrong = self
            .number(
                "SELECT count(*) AS value FROM wallets w WHERE balance_nanos <> (
                     SELECT coalesce(sum(CASE WHEN credit_account = w.tenant_id THEN amount_nanos ELSE -amount_nanos END), 0)
                     FROM ledger_transfers WHERE w.tenant_id IN (debit_account, credit_account))
                 OR held_nanos <> (SELECT coalesce(sum(held_nanos), 0) FROM credit_holds h
                     WHERE h.tenant_id = w.tenant_id AND state = 'open')",
            )
            .await;
        assert_eq!(wrong, 0, "a wallet differs from its transfers or holds");
    }
}

fn cents(cents: i32) -> Money {
    Money::from_cents(cents)
}

fn purchase(key: &str, tenant: TenantId, amount: i32) -> Transfer {
    Transfer::to_wallet(key, TransferKind::Purchase, tenant, cents(amount), Actor::System("test"))
}

fn usage(key: &str, tenant: TenantId, amount: i32) -> Transfer {
    Transfer::from_wallet(key, TransferKind::AdapterUsage, tenant, cents(amount), Actor::System("test"))
}
