//! `drill database`: a set of the platform's database, restored into a throw-away one.
//!
//! Somebody signs up and pays. An operator has a set made; the engine of backups restores it into an empty PostgreSQL beside
//! the platform's, counts and hashes every table and compares them with the set's manifest; the newcomer and the payment
//! must be there. It has nothing but the escrowed key for that. Then one group alone, with the ring. The platform goes on
//! meanwhile, and is told that the set is good.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::chown,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;

use super::{stage::Stage, tenant_data::FIRST_CENTS, throw_away::Scratch};
use crate::{
    cli::DrillArgs,
    commands::up::{FILES, require_root},
    exec::ready::logs_of,
    failure::{Exit, Failure},
    happy_path::Customer,
    images::recipes::SERVICE_UID,
    operator::DatabaseSet,
    paths::{Paths, private_directory},
    plan::{machines::SHARED, platform::Ports, scratch},
    secrets::Handover,
    ui::Ui,
};

/// The group that is restored alone: nothing in it refers to another's rows.
const GROUP: &str = "core";
/// How many groups there are.
const GROUPS: usize = 8;
/// How long all groups may take, and one.
const ALL_OBJECTIVE: Duration = Duration::from_mins(15);
const GROUP_OBJECTIVE: Duration = Duration::from_mins(5);

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &DrillArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    rehearse(ui, paths, args.ports).await
}

/// The drill, on the two machines that are up.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    let stage = Stage::new(paths, ports).await?;
    let scratch = Scratch::new(ui, paths, &stage).await?;
    let operator = stage.operator()?;

    let task = ui.start("somebody signs up and pays");
    let mut customer = stage.customer("database-drill")?;
    let arrive = async {
        customer.sign_up().await?;
        customer.first_balance().await?;
        customer.pays(&customer.payment(FIRST_CENTS)).await?;
        customer.balance_reaches(FIRST_CENTS).await
    };
    task.ends(arrive.await, Clone::clone)?;

    let since = Instant::now();
    let task = ui.start("an operator has a set of the database made");
    let set = task.ends(operator.database_set().await, |set| format!("{}, {} MiB", set.path, set.size_mb))?;
    ui.done("the set is in the store", since.elapsed());

    let result = scratch.prove(&set, &customer).await;
    // Whatever came of it, nothing of it stays.
    let cleared = scratch.clear().await;
    result.map_err(|error| {
        anyhow::Error::from(
            Failure::new(Exit::Check, format!("the set {} is not the database", set.path)).why(format!("{error:#}")),
        )
    })?;
    cleared?;
    operator.note_proof(&set.path).await?;
    ui.note("the platform knows that this set was restored");
    Ok(())
}

impl Scratch<'_> {
    async fn prove(&self, set: &DatabaseSet, customer: &Customer<'_>) -> anyhow::Result<()> {
        let report = self.restore(set, None, ALL_OBJECTIVE).await?;
        let groups = report["groups"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(groups == GROUPS, "{groups} groups were restored instead of {GROUPS}: {report}");
        let task = self.ui.start(customer.email());
        task.ends(self.has_paid(customer.email(), FIRST_CENTS).await, |paid| {
            format!("is there with {paid} nano-dollars")
        })?;
        self.restore(set, Some(GROUP), GROUP_OBJECTIVE).await.map(drop)
    }

    /// Restores the set, or a group of it, into a new database; the answer is what the engine says of it.
    async fn restore(&self, set: &DatabaseSet, group: Option<&str>, objective: Duration) -> anyhow::Result<Value> {
        self.clear().await?;
        let mut handovers = self.handovers()?;
        let is_escrowed = group.is_none();
        let stack = |handovers: &BTreeMap<&'static str, Handover>| {
            let directory = format!("{SHARED}/{FILES}");
            scratch::stack(&self.images, self.host, handovers, &directory, &set.snapshot, group, is_escrowed)
        };
        if is_escrowed {
            let directory = self.files(scratch::ESCROWED);
            private_directory(&directory)?;
            chown(&directory, Some(SERVICE_UID), Some(SERVICE_UID))
                .with_context(|| format!("{} cannot be given to {}", directory.display(), scratch::ESCROW))?;
            self.bring(stack(&handovers).only(&[scratch::ESCROW.to_owned()]), &handovers).await?;
            let file = directory.join(scratch::ESCROW_FILE);
            let key = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            handovers.entry(scratch::RESTORE).or_default().insert(scratch::KEY.to_owned(), key);
        }
        self.bring(stack(&handovers).only(&[scratch::POSTGRES.to_owned()]), &handovers).await?;
        self.bring(stack(&handovers).only(&[scratch::RESTORE.to_owned()]), &handovers).await?;
        let report = self.report().await?;
        let took = Duration::from_millis(report["elapsed_ms"].as_u64().context("the engine tells no time")?);
        let tables = report["tables"].as_u64().context("the engine tells of no tables")?;
        anyhow::ensure!(tables > 0, "no table was compared: {report}");
        let what = group
            .map_or_else(|| "all groups, with the escrowed key alone".to_owned(), |group| format!("the group {group}"));
        let minutes = objective.as_secs() / 60;
        self.ui.done(
            format!(
                "{what}: {tables} tables with as many rows and the same hashes; the objective is {minutes} minutes"
            ),
            took,
        );
        anyhow::ensure!(took < objective, "{what} took longer than {minutes} minutes");
        Ok(report)
    }

    /// The line that the engine ended with.
    async fn report(&self) -> anyhow::Result<Value> {
        let text = logs_of(&self.vps, scratch::RESTORE).await?;
        let line = text.lines().last().context("the restore said nothing")?;
        serde_json::from_str(line).with_context(|| format!("the restore said {line}"))
    }
}
