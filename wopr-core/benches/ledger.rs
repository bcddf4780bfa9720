//! How fast the ledger posts, against a transaction written by hand and against TPC-B, on the same server in one run.
//!
//! ```text
//! WOPR_BENCH_DATABASE_URL=postgres://postgres@127.0.0.1:5439/postgres?sslmode=disable \
//!     cargo bench -p wopr-core --bench ledger
//! ```
//!
//! The server has to be durable: one with `fsync` or `synchronous_commit` off is refused, as its numbers say nothing.
//! A database of its own is made there and dropped. `WOPR_BENCH_SECONDS` is the length of one round (3), of which each
//! measurement takes three, the compared ones in turn, and reports the median. TPC-B is run by `pgbench` if
//! `WOPR_BENCH_PGBENCH` names one, else by the same transaction through the client used for everything else.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark reports by printing and fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;
use wopr_core::audit::Actor;
use wopr_core::billing::{Billing, BillingConfig, Transfer, TransferKind};
use wopr_core::clock::{Clock as _, SystemClock};
use wopr_core::db::{Db, DbConfig};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;

const TENANTS: usize = 1000;
const CLIENTS: usize = 32;
const GROUP: usize = 500;
const GROUP_CLIENTS: usize = 4;
const ROUNDS: usize = 3;

/// The tables of the transaction written by hand: the same columns, checks and indexes, and no triggers.
const HAND_WRITTEN_TABLES: &str = "
    CREATE TABLE hand_transfers (LIKE wopr.ledger_transfers INCLUDING ALL);
    CREATE TABLE hand_wallets (LIKE wopr.wallets INCLUDING ALL) WITH (fillfactor = 70);
    INSERT INTO hand_wallets SELECT * FROM wopr.wallets;";
const HAND_WRITTEN_INSERT: &str = "INSERT INTO hand_transfers (id, reference_key, kind, debit_account, credit_account,
        amount_nanos, actor_kind, actor, occurred_at)
    VALUES ($1, $2, 'adapter_usage', $3, '00000000-0000-0000-0000-000000000003', 1000, 'system', 'bench', now())
    ON CONFLICT (reference_key) DO NOTHING RETURNING id";
const HAND_WRITTEN_UPDATE: &str = "UPDATE hand_wallets
    SET balance_nanos = balance_nanos - 1000, version = version + 1, updated_at = now()
    WHERE tenant_id = $1 AND balance_nanos - held_nanos >= 1000 RETURNING balance_nanos";

/// TPC-B as pgbench has it, scale 10.
const TPC_B_TABLES: &str = "
    CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88)) WITH (fillfactor = 100);
    CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
    CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
    CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
    INSERT INTO pgbench_branches SELECT i, 0 FROM generate_series(1, 10) i;
    INSERT INTO pgbench_tellers SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, 100) i;
    INSERT INTO pgbench_accounts SELECT i, (i - 1) / 100000 + 1, 0, '' FROM generate_series(1, 1000000) i;";
const TPC_B: [&str; 5] = [
    "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = $1",
    "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
    "UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = $1",
    "UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = $1",
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, 1, now())",
];

/// A uuid as a parameter of the statements written by hand.
#[derive(Debug)]
struct Id(Uuid);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }

    to_sql_checked!();
}

struct Bench {
    url: String,
    round: Duration,
    billing: Billing,
    tenants: Arc<[TenantId]>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let Ok(server) = std::env::var("WOPR_BENCH_DATABASE_URL") else {
        println!("WOPR_BENCH_DATABASE_URL is not set: nothing was measured");
        return;
    };
    let seconds = std::env::var("WOPR_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let admin = connect(&server).await;
    for setting in ["fsync", "synchronous_commit"] {
        let value: String = admin.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(value, "on", "{setting} is {value}: this server is not durable");
    }
    let name = format!("wopr_bench_{}", std::process::id());
    admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let bench = Bench::prepare(with_database(&server, &name), Duration::from_secs(seconds)).await;
    bench.report().await;
    drop(bench);
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}

impl Bench {
    async fn prepare(url: String, round: Duration) -> Self {
        let mut config = DbConfig::new(url.clone());
        config.max_connections = u32::try_from(CLIENTS).unwrap();
        config.acquire_timeout = Duration::from_mins(1);
        let db = Db::new(config).unwrap();
        db.migrate().await.unwrap();
        let clock = SystemClock;
        let tenants: Vec<TenantId> = (0..TENANTS).map(|_| TenantId::new(clock.now())).collect();
        let client = connect(&url).await;
        let ids: Vec<Id> = tenants.iter().map(|tenant| Id(tenant.as_uuid())).collect();
        let insert = "INSERT INTO wopr.tenants SELECT id, 'personal', 'bench', now() FROM unnest($1::uuid[]) id";
        client.execute(insert, &[&ids]).await.unwrap();
        let billing = Billing::new(db, Arc::new(clock), BillingConfig::default());
        let seed: Vec<Transfer> = tenants
            .iter()
            .map(|tenant| {
                let amount = Money::from_cents(100_000_000);
                Transfer::to_wallet(format!("seed:{tenant}"), TransferKind::Purchase, *tenant, amount, actor())
            })
            .collect();
        billing.post(&seed).await.unwrap();
        client.batch_execute(HAND_WRITTEN_TABLES).await.unwrap();
        client.batch_execute(TPC_B_TABLES).await.unwrap();
        client.batch_execute("VACUUM ANALYZE").await.unwrap();
        Self { url, round, billing, tenants: tenants.into() }
    }

    async fn report(&self) {
        let (mut ours, mut hand, mut ours_hot, mut hand_hot) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(self.single(TENANTS).await);
            hand.push(self.hand_written(TENANTS).await);
            ours_hot.push(self.single(1).await);
            hand_hot.push(self.hand_written(1).await);
        }
        let (ours, hand, ours_hot, hand_hot) = (median(ours), median(hand), median(ours_hot), median(hand_hot));
        println!(
            "single debits, {CLIENTS} clients, {TENANTS} tenants: {ours}/s, by hand {hand}/s, {}",
            ratio(ours, hand)
        );
        println!(
            "single debits, {CLIENTS} clients, one tenant: {ours_hot}/s, by hand {hand_hot}/s, {}",
            ratio(ours_hot, hand_hot)
        );
        let (mut spread, mut hot, mut tpc_b) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            spread.push(self.groups(TENANTS).await);
            tpc_b.push(self.tpc_b().await);
            hot.push(self.groups(1).await);
        }
        let (spread, hot, tpc_b) = (median(spread), median(hot), median(tpc_b));
        println!("TPC-B, {CLIENTS} clients: {tpc_b} transactions/s");
        println!(
            "groups of {GROUP}, {GROUP_CLIENTS} clients, {TENANTS} tenants: {spread}/s, {} TPC-B",
            ratio(spread, tpc_b)
        );
        println!("groups of {GROUP}, {GROUP_CLIENTS} clients, one tenant: {hot}/s, {} spread", ratio(hot, spread));
        let books = self.billing.verify_books().await.unwrap();
        assert!(books.is_balanced(), "{books:?}");
        println!("the books of {} wallets balance", books.wallets);
    }

    async fn single(&self, tenants: usize) -> u64 {
        self.rate(CLIENTS, async |client, turn| {
            let tenant = self.tenants[pick(client, turn, tenants)];
            self.billing.post(&[debit(client, turn, tenant)]).await.unwrap();
            1
        })
        .await
    }

    async fn groups(&self, tenants: usize) -> u64 {
        self.rate(GROUP_CLIENTS, async |client, turn| {
            let group: Vec<Transfer> = (0..GROUP)
                .map(|place| debit(client, turn, self.tenants[pick(client, turn * GROUP + place, tenants)]))
                .collect();
            self.billing.post(&group).await.unwrap();
            GROUP
        })
        .await
    }

    async fn hand_written(&self, tenants: usize) -> u64 {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = connect(&self.url).await;
            let insert = client.prepare(HAND_WRITTEN_INSERT).await.unwrap();
            let update = client.prepare(HAND_WRITTEN_UPDATE).await.unwrap();
            clients.push((client, insert, update));
        }
        let clients = &clients;
        self.rate(CLIENTS, async |client, turn| {
            let tenant = Id(self.tenants[pick(client, turn, tenants)].as_uuid());
            let (conn, insert, update): &(Client, Statement, Statement) = &clients[client];
            conn.batch_execute("BEGIN").await.unwrap();
            let id = unique();
            conn.query_one(insert, &[&Id(id), &format!("usage:{id}"), &tenant]).await.unwrap();
            conn.query_one(update, &[&tenant]).await.unwrap();
            conn.batch_execute("COMMIT").await.unwrap();
            1
        })
        .await
    }

    async fn tpc_b(&self) -> u64 {
        if let Ok(pgbench) = std::env::var("WOPR_BENCH_PGBENCH") {
            return self.pgbench(&pgbench).await;
        }
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = connect(&self.url).await;
            let mut statements = Vec::new();
            for text in TPC_B {
                statements.push(client.prepare(text).await.unwrap());
            }
            clients.push((client, statements));
        }
        let clients = &clients;
        self.rate(CLIENTS, async |client, turn| {
            let (conn, statements) = &clients[client];
            let place = |range| i32::try_from(pick(client, turn, range)).unwrap() + 1;
            let (account, teller, branch) = (place(1_000_000), place(100), place(10));
            conn.batch_execute("BEGIN").await.unwrap();
            conn.execute(&statements[0], &[&account]).await.unwrap();
            conn.query(&statements[1], &[&account]).await.unwrap();
            conn.execute(&statements[2], &[&teller]).await.unwrap();
            conn.execute(&statements[3], &[&branch]).await.unwrap();
            conn.execute(&statements[4], &[&teller, &branch, &account]).await.unwrap();
            conn.batch_execute("COMMIT").await.unwrap();
            1
        })
        .await
    }

    async fn pgbench(&self, program: &str) -> u64 {
        let seconds = self.round.as_secs().to_string();
        let output = tokio::process::Command::new(program)
            .args([
                "-n",
                "-M",
                "prepared",
                "-s",
                "10",
                "-c",
                &CLIENTS.to_string(),
                "-j",
                "2",
                "-T",
                &seconds,
                &self.url,
            ])
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap_or_else(|| panic!("{text}"));
        rate.split('.').next().unwrap().parse().unwrap()
    }

    /// Lets `clients` work in turns for a round, and answers how much they did a second.
    async fn rate<F>(&self, clients: usize, work: F) -> u64
    where
        F: AsyncFn(usize, usize) -> usize,
    {
        let done = AtomicU64::new(0);
        let start = Instant::now();
        let workers = (0..clients).map(|client| {
            let (done, work) = (&done, &work);
            async move {
                for turn in 0.. {
                    if start.elapsed() >= self.round {
                        break;
                    }
                    let count = work(client, turn).await;
                    done.fetch_add(u64::try_from(count).unwrap(), Ordering::Relaxed);
                }
            }
        });
        futures_util::future::join_all(workers).await;
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap();
        done.load(Ordering::Relaxed) * 1000 / millis.max(1)
    }
}

fn debit(client: usize, turn: usize, tenant: TenantId) -> Transfer {
    let key = format!("usage:{}:{client}:{turn}", unique());
    Transfer::from_wallet(key, TransferKind::AdapterUsage, tenant, Money::from_nanos(1000), actor())
}

fn actor() -> Actor {
    Actor::System("bench")
}

fn unique() -> Uuid {
    Uuid::new_v4()
}

/// Scattered, and the same in every run.
fn pick(client: usize, turn: usize, range: usize) -> usize {
    (client * 7919 + turn).wrapping_mul(0x9e37_79b9) % 0xffff_fffb % range
}

fn median(mut rates: Vec<u64>) -> u64 {
    rates.sort_unstable();
    rates[rates.len() / 2]
}

fn ratio(one: u64, other: u64) -> String {
    let hundredths = one * 100 / other.max(1);
    format!("{}.{:02} ×", hundredths / 100, hundredths % 100)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn with_database(server: &str, name: &str) -> String {
    let (base, query) = server.split_once('?').unwrap_or((server, "sslmode=disable"));
    format!("{}/{name}?{query}", base.rsplit_once('/').unwrap().0)
}
