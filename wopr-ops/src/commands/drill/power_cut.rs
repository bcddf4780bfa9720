//! `drill power-cut` and `drill full-disk`: the platform's machine ends at once, or its disk is full, while bots run and
//! payments arrive.
//!
//! Customers of the drill's own pay without a pause, each payment told again until it is accepted, as Stripe does. The
//! machine is killed in the midst of that, with a bot paused, and started again; or its disk is filled until each of them was refused, and the
//! runbook's check says so, and room is made again. Afterwards each payment is credited once, the balance is what
//! its movements add up to, no movement of before is missing, and each bot runs with the bytes it had.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::Docker;
use futures_util::future::{join_all, try_join_all};

use super::{
    stage::Stage,
    tenant_data::{BYTES, FIRST_CENTS, Files, customer_with_bot, files, give_bytes},
};
use crate::{
    cli::{DrillArgs, StartArgs},
    commands::{fault, start, up::require_root, wait_until},
    exec::{observe::name_of, sites::inside},
    failure::{Exit, Failure},
    happy_path::{Customer, Movement},
    paths::Paths,
    plan::{machines::VPS, platform::Ports},
    runbook::{self, world::World},
    ui::Ui,
};

/// The runbook's check of the machine's disk.
const CHECK: &str = "vps-disk";
/// How many customers.
const CUSTOMERS: usize = 2;
/// One payment, in US cents.
const PAID_CENTS: i64 = 100;
const NANOS_PER_CENT: i64 = 10_000_000;
/// Payments of each customer that are accepted before the cut, and after it.
const ACCEPTED: i64 = 3;
/// How long these may take.
const LIMIT: Duration = Duration::from_mins(1);
/// Between two payments, and before one is told again.
const PACE: Duration = Duration::from_millis(250);

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &DrillArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    rehearse(ui, paths, args.ports).await
}

pub(crate) async fn full_disk(ui: &Ui, paths: &Paths, args: &DrillArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    meets(ui, paths, args.ports, Disaster::FullDisk).await
}

/// What happens to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disaster {
    PowerCut,
    FullDisk,
}

impl Disaster {
    fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power-cut",
            Self::FullDisk => "full-disk",
        }
    }
}

/// What a customer has.
#[derive(Debug)]
struct Holdings {
    movements: Vec<Movement>,
    files: Files,
}

/// The power cut, on the two machines that are up.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    meets(ui, paths, ports, Disaster::PowerCut).await
}

/// A drill, on the two machines that are up.
async fn meets(ui: &Ui, paths: &Paths, ports: Ports, disaster: Disaster) -> anyhow::Result<()> {
    let stage = Stage::new(paths, ports).await?;
    let vps = inside(paths, VPS).await?;

    let task = ui.start(format!("{CUSTOMERS} customers pay and get a bot with {BYTES} bytes of their own"));
    let arrive = (0..CUSTOMERS).map(async |number| {
        let customer = customer_with_bot(stage.customer(&format!("{}-{number}", disaster.name()))?).await?;
        let container = name_of(&customer.container(&vps).await?);
        give_bytes(&vps, &container, "drill").await?;
        let holdings = Holdings { movements: customer.history().await?, files: files(&vps, &container).await? };
        anyhow::ensure!(holdings.files.len() > 1, "the volume of {container} has only {:?}", holdings.files.keys());
        anyhow::Ok((customer, holdings))
    });
    let customers = task.ends(try_join_all(arrive).await, |_| String::new())?;

    let payers: Vec<Payer<'_>> = customers.iter().map(|(customer, _)| Payer::new(customer)).collect();
    let cut = async {
        wait_for_more(&payers).await?;
        let since = match disaster {
            Disaster::PowerCut => {
                let task =
                    ui.start(format!("{VPS} is killed while payments arrive and a bot is paused, as for a backup"));
                let killed = async {
                    let (customer, _) = customers.first().context("there is no customer")?;
                    let bot = name_of(&customer.container(&vps).await?);
                    vps.pause_container(&bot).await.with_context(|| format!("{bot} could not be paused"))?;
                    fault::kill(&stage.engine, VPS).await
                };
                task.ends(killed.await, |_| String::new())?;
                let since = Instant::now();
                start::bring(ui, paths, &StartArgs { flat: false, dry_run: false, json: false, ports }).await?;
                since
            }
            Disaster::FullDisk => {
                let task = ui.start(format!("the disk of {VPS} is filled while payments arrive"));
                task.ends(fault::fill(paths, &stage.engine, VPS).await, Clone::clone)?;
                // Everybody mends what was filled, however the rest ends.
                let noticed = is_noticed(ui, paths, &stage, &payers).await;
                let since = Instant::now();
                let task = ui.start("room is made again");
                task.ends(fault::mend(paths, &stage.engine, VPS).await, Clone::clone)?;
                noticed?;
                since
            }
        };
        wait_for_more(&payers).await?;
        anyhow::Ok(since.elapsed())
    };
    let mut paying = std::pin::pin!(join_all(payers.iter().map(Payer::pay)));
    let took = tokio::select! {
        took = cut => took?,
        _ = &mut paying => anyhow::bail!("nobody pays any more"),
    };
    ui.done("payments are accepted again", took);
    for payer in &payers {
        payer.is_done.store(true, Ordering::SeqCst);
    }
    tokio::time::timeout(LIMIT, paying).await.context("a payment that was begun is not accepted")?;

    let vps = inside(paths, VPS).await?;
    for ((customer, before), payer) in customers.iter().zip(&payers) {
        let task = ui.start(customer.email());
        let compared = compare(&vps, customer, before, payer).await.map_err(|error| {
            anyhow::Error::from(
                Failure::new(Exit::Check, format!("the {} cost {} something", disaster.name(), customer.email()))
                    .why(format!("{error:#}")),
            )
        });
        task.ends(compared, Clone::clone)?;
    }
    Ok(())
}

/// Somebody who pays and pays.
struct Payer<'a> {
    customer: &'a Customer<'a>,
    /// Payments that the API has accepted.
    accepted: AtomicI64,
    /// Tellings that failed and were repeated.
    repeated: AtomicI64,
    is_done: AtomicBool,
}

impl<'a> Payer<'a> {
    fn new(customer: &'a Customer<'a>) -> Self {
        Self { customer, accepted: AtomicI64::new(0), repeated: AtomicI64::new(0), is_done: AtomicBool::new(false) }
    }

    /// Pays until it is done. A payment that was begun is told until it is accepted: it may be credited already.
    async fn pay(&self) {
        let mut event = self.customer.payment(PAID_CENTS);
        loop {
            if self.customer.pays(&event).await.is_ok() {
                self.accepted.fetch_add(1, Ordering::SeqCst);
                if self.is_done.load(Ordering::SeqCst) {
                    return;
                }
                event = self.customer.payment(PAID_CENTS);
            } else {
                self.repeated.fetch_add(1, Ordering::SeqCst);
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

/// Waits until each payer has had some more payments accepted.
async fn wait_for_more(payers: &[Payer<'_>]) -> anyhow::Result<()> {
    let accepted = |payer: &Payer<'_>| payer.accepted.load(Ordering::SeqCst);
    let wanted: Vec<i64> = payers.iter().map(|payer| accepted(payer) + ACCEPTED).collect();
    let reached =
        || async { Ok(payers.iter().zip(&wanted).all(|(payer, wanted)| accepted(payer) >= *wanted).then_some(())) };
    wait_until(LIMIT, reached).await?.with_context(|| format!("payments are not accepted within {} s", LIMIT.as_secs()))
}

/// Waits until everybody was refused, and sees that the runbook's check fails.
async fn is_noticed(ui: &Ui, paths: &Paths, stage: &Stage, payers: &[Payer<'_>]) -> anyhow::Result<()> {
    let task = ui.start("payments are refused");
    let refused = || async { Ok(payers.iter().all(|payer| payer.repeated.load(Ordering::SeqCst) > 0).then_some(())) };
    let refused = wait_until(LIMIT, refused).await?;
    let refused = refused.with_context(|| format!("nobody is refused within {} s", LIMIT.as_secs()));
    task.ends(refused, |()| String::new())?;
    let task = ui.start(format!("the check {CHECK} of the runbook"));
    let world = World { paths, engine: stage.engine.clone(), http: stage.http.clone(), ports: stage.ports };
    let seen = world.check(&runbook::parse(runbook::TEXT)?, CHECK).await.and_then(|outcome| {
        anyhow::ensure!(!outcome.passed, "it passes: {}", outcome.detail);
        Ok(outcome.detail)
    });
    task.ends(seen, |detail| format!("red: {detail}")).map(drop)
}

/// What the customer has now is what was there before, and every payment since.
async fn compare(
    engine: &Docker,
    customer: &Customer<'_>,
    before: &Holdings,
    payer: &Payer<'_>,
) -> anyhow::Result<String> {
    let repeated = payer.repeated.load(Ordering::SeqCst);
    anyhow::ensure!(repeated > 0, "no payment was refused meanwhile");
    let movements = customer.history().await?;
    let accepted = payer.accepted.load(Ordering::SeqCst);
    credited(&before.movements, &movements, accepted, customer.balance().await?)?;
    customer.bot_runs().await?;
    let container = name_of(&customer.container(engine).await?);
    let now = files(engine, &container).await?;
    anyhow::ensure!(now == before.files, "the volume of {container} had {:?} and has {now:?}", before.files);
    Ok(format!(
        "{accepted} payments, {repeated} told again, each credited once; the bot runs with its {} files",
        now.len()
    ))
}

/// Whether the movements are those of before and one for each accepted payment, and make up the balance.
fn credited(before: &[Movement], now: &[Movement], accepted: i64, balance_cents: i64) -> anyhow::Result<()> {
    if let Some(lost) = before.iter().find(|movement| !now.contains(movement)) {
        anyhow::bail!("the movement {} of {} is lost", lost.id, lost.amount);
    }
    let bought: i64 = now.iter().filter(|movement| movement.kind == "purchase").map(|movement| movement.amount).sum();
    let paid = (FIRST_CENTS + accepted * PAID_CENTS) * NANOS_PER_CENT;
    anyhow::ensure!(bought == paid, "{paid} nano-dollars were paid, and {bought} are credited");
    let sum: i64 = now.iter().map(|movement| movement.amount).sum();
    let shown = balance_cents * NANOS_PER_CENT;
    // The balance is shown in whole cents.
    anyhow::ensure!(
        (sum - shown).abs() * 2 <= NANOS_PER_CENT,
        "the movements add up to {sum}, and the balance is {shown}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn movement(id: &str, kind: &str, cents: i64) -> Movement {
        Movement { id: id.to_owned(), amount: cents * NANOS_PER_CENT, kind: kind.to_owned() }
    }

    #[test]
    fn what_is_missing_or_doubled_is_noticed() {
        let first = [movement("1", "purchase", FIRST_CENTS), movement("2", "bot_runtime", -17)];
        let with = |more: &[Movement]| [more, &first].concat();
        let one = movement("3", "purchase", PAID_CENTS);
        let balance = FIRST_CENTS - 17 + PAID_CENTS;
        credited(&first, &with(std::slice::from_ref(&one)), 1, balance).unwrap();
        // A day that ends meanwhile is charged: that is no loss.
        let charged = with(&[movement("4", "bot_runtime", -17), one.clone()]);
        credited(&first, &charged, 1, balance - 17).unwrap();

        let wrong = [
            ("lost", credited(&first, &[first[0].clone(), one.clone()], 1, balance + 17)),
            ("paid", credited(&first, &with(&[]), 1, balance - PAID_CENTS)),
            ("paid", credited(&first, &with(&[movement("4", "purchase", PAID_CENTS), one.clone()]), 1, balance)),
            ("add up", credited(&first, &with(&[one]), 1, balance + 1)),
        ];
        for (word, outcome) in wrong {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
