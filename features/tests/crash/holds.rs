//! Holds open and end while the process that does it is killed.
//!
//! Holds have no wire of their own, so a process of ours uses the library: this test's own program, started again to run
//! [`worker`]. After a kill the next one does the last piece of work again, as a caller does who got no answer.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use wopr_core::audit::Actor;
use wopr_core::billing::{Billing, BillingConfig, Transfer, TransferKind};
use wopr_core::clock::{Clock as _, SystemClock};
use wopr_core::db::{Db, DbConfig};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;
use wopr_core::testing::{FixedClock, TestDb};

use super::books::Books;
use super::schedule::{self, Course};

/// Tells the worker what to do: `<seed> <tenant> <piece to begin with, for each task>`, and where.
const WORK: &str = "WOPR_CRASH_WORK";
const DATABASE: &str = "WOPR_CRASH_DATABASE_URL";
/// How many do holds at once, on one wallet.
const TASKS: usize = 4;
const KILLS: usize = 4;
const START_NANOS: i64 = 1_000_000_000_000;

/// What becomes of a piece of work; decided by the seed, so that doing it again means the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Settle(i64),
    Overrun(i64),
    Void,
    Forget,
}

fn piece(seed: u64, task: usize, index: u64) -> (i64, End) {
    let mut random: StdRng = schedule::random(seed ^ ((task as u64) << 48) ^ (index << 8));
    let held = random.random_range(1_000_000..20_000_000);
    let end = match random.random_range(0..10) {
        0..5 => End::Settle(random.random_range(0..=held)),
        5..7 => End::Overrun(held + random.random_range(1..5_000_000)),
        7..9 => End::Void,
        _ => End::Forget,
    };
    (held, end)
}

fn key(task: usize, index: u64) -> String {
    format!("work:{task}:{index}")
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_survive_kills() {
    schedule::run("holds", async |seed, course| course.watched(kill_and_look(seed, &course)).await).await;
}

async fn kill_and_look(seed: u64, course: &Course) -> Result<()> {
    course.enter("a database");
    let test = TestDb::create().await;
    let books = Books::open(&test.url()).await?;
    let tenant = TenantId::new(SystemClock.now());
    books
        .execute(&format!("INSERT INTO tenants VALUES ('{}', 'personal', 'Ada', '2026-01-01')", tenant.as_uuid()))
        .await?;
    let billing = Billing::new(test.db.clone(), Arc::new(SystemClock), BillingConfig::default());
    let start = Transfer::to_wallet(
        "start",
        TransferKind::Purchase,
        tenant,
        Money::from_nanos(START_NANOS),
        Actor::System("crash-test"),
    );
    billing.post(&[start]).await?;

    let mut random = schedule::random(seed);
    let mut done = [0_u64; TASKS];
    for _ in 0..KILLS {
        course.enter("a life");
        live(seed, tenant, &test.url(), &mut done, &mut random).await?;
        course.enter("quiet in the database");
        books.settle_down().await?;
        course.enter("the books");
        books.check().await?;
        answered(&books, seed, &done).await?;
    }

    course.enter("expiry");
    // Whatever nobody ended ends by itself.
    let later = FixedClock::at(SystemClock.now() + SignedDuration::from_mins(11));
    Billing::new(test.db.clone(), Arc::new(later), BillingConfig::default()).expire_holds().await?;
    books.check().await?;
    ensure!(books.number("SELECT count(*) FROM credit_holds WHERE state = 'open'").await? == 0, "holds stayed open");
    ensure!(books.number("SELECT held_nanos FROM wallets").await? == 0, "credit is still held");
    let spent: i64 =
        books.number("SELECT coalesce(sum(actual_nanos + overrun_nanos), 0)::bigint FROM credit_holds").await?;
    ensure!(
        books.number("SELECT balance_nanos FROM wallets").await? == START_NANOS - spent,
        "the wallet is off by some"
    );
    ensure!(done.iter().sum::<u64>() > 0, "every worker was killed before it had done anything");
    Ok(())
}

/// Starts a worker and kills it after it has answered a random number of pieces.
async fn live(seed: u64, tenant: TenantId, url: &str, done: &mut [u64; TASKS], random: &mut StdRng) -> Result<()> {
    let from: Vec<String> = done.iter().map(u64::to_string).collect();
    let mut worker = Command::new(std::env::current_exe()?)
        .args(["holds::worker", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(WORK, format!("{seed} {tenant} {}", from.join(" ")))
        .env(DATABASE, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(worker.stdout.take().context("no output")?).lines();
    let answers = random.random_range(0..60);
    let linger = Duration::from_micros(random.random_range(0..4_000));
    let mut seen = 0;
    while seen < answers {
        let line = lines.next_line().await?.context("the worker ended by itself")?;
        seen += usize::from(note(&line, done));
    }
    tokio::time::sleep(linger).await;
    worker.start_kill()?;
    // What it had answered before it was killed counts too.
    while let Some(line) = lines.next_line().await? {
        note(&line, done);
    }
    ensure!(!worker.wait().await?.success(), "the worker was to be killed");
    Ok(())
}

/// `done <task> <index>`: whether the line says so.
fn note(line: &str, done: &mut [u64; TASKS]) -> bool {
    let mut words = line.split(' ').skip_while(|word| *word != "done").skip(1);
    let (Some(Ok(task)), Some(Ok(index))) =
        (words.next().map(str::parse::<usize>), words.next().map(str::parse::<u64>))
    else {
        return false;
    };
    done[task] = index + 1;
    true
}

/// What was answered before the kill has happened, as it was answered, and once.
async fn answered(books: &Books, seed: u64, done: &[u64; TASKS]) -> Result<()> {
    let rows =
        books.rows("SELECT reference_key, held_nanos, state, actual_nanos, overrun_nanos FROM credit_holds").await?;
    let mut found = 0;
    for row in &rows {
        let text = |column: usize| row[column].clone().unwrap_or_default();
        let name = text(0);
        let mut parts = name.split(':').skip(1);
        let task: usize = parts.next().unwrap_or_default().parse()?;
        let index: u64 = parts.next().unwrap_or_default().parse()?;
        let (held, end) = piece(seed, task, index);
        ensure!(text(1) == held.to_string(), "{name} holds {}, not {held}", text(1));
        let finished = index < done[task];
        let (state, taken) = (text(2), (text(3), text(4)));
        let fits = match (end, state.as_str()) {
            (End::Settle(actual), "settled") => taken == (actual.to_string(), "0".to_owned()),
            (End::Overrun(cost), "settled") => taken == (held.to_string(), (cost - held).to_string()),
            (End::Void, "voided") | (End::Forget, "open") => true,
            // Killed between opening and ending, or before the answer was read.
            (_, "open") => !finished,
            _ => false,
        };
        ensure!(fits, "{name} was to {end:?} and is {row:?} (finished: {finished})");
        found += u64::from(finished);
    }
    ensure!(found == done.iter().sum::<u64>(), "{found} of {done:?} answered pieces are there");
    Ok(())
}

/// Not a test: the program that is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by holds_survive_kills"]
async fn worker() {
    let Ok(work) = std::env::var(WORK) else { return };
    let mut words = work.split(' ');
    let seed: u64 = words.next().unwrap().parse().unwrap();
    let tenant: TenantId = words.next().unwrap().parse().unwrap();
    let from: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
    let db = Db::new(DbConfig::new(std::env::var(DATABASE).unwrap())).unwrap();
    let billing = Billing::new(db, Arc::new(SystemClock), BillingConfig::default());
    let mut tasks = tokio::task::JoinSet::new();
    for (task, first) in from.into_iter().enumerate() {
        let billing = billing.clone();
        tasks.spawn(async move {
            for index in first.. {
                let (held, end) = piece(seed, task, index);
                let hold = billing.open_hold(tenant, &key(task, index), Money::from_nanos(held)).await.unwrap();
                match end {
                    End::Settle(actual) => billing.settle(tenant, hold.id, Money::from_nanos(actual)).await.unwrap(),
                    End::Overrun(cost) => {
                        billing.settle_with_overrun(tenant, hold.id, Money::from_nanos(cost)).await.unwrap()
                    }
                    End::Void => billing.void(tenant, hold.id).await.unwrap(),
                    End::Forget => hold,
                };
                // In one piece: several tasks write.
                let line = format!("\ndone {task} {index}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    tasks.join_next().await.unwrap().unwrap();
}
