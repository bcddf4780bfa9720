//! `drill point-in-time`: the platform's database as it was between two payments.
//!
//! Somebody signs up and pays; a moment later pays again. When the log of both is in the archive, a throw-away database is
//! filled from the last copy of the platform's files and reads the log up to the instant between them. It must have the
//! first payment to the nano-dollar and not the second. The platform goes on meanwhile, and is told that the copy is good.

use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;

use super::{
    archived::archive_now,
    stage::Stage,
    tenant_data::{FIRST_CENTS, SECOND_CENTS},
    throw_away::Scratch,
};
use crate::{
    cli::DrillArgs,
    commands::up::{
        FILES,
        recovering::{answer, until_promoted},
        require_root,
    },
    failure::{Exit, Failure},
    paths::Paths,
    plan::{
        archive::Target,
        machines::SHARED,
        platform::{Ports, VPS},
        scratch,
    },
    ui::Ui,
};

/// How long it may take from the wish for a database of then to the database.
const OBJECTIVE: Duration = Duration::from_mins(15);

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

    let task = ui.start("the platform has a copy of its database's files");
    let path = task.ends(operator.base_backup().await, Clone::clone)?;

    let task = ui.start("somebody signs up and pays twice");
    let mut customer = stage.customer("point-in-time")?;
    let pay = async {
        customer.sign_up().await?;
        customer.first_balance().await?;
        customer.pays(&customer.payment(FIRST_CENTS)).await?;
        customer.balance_reaches(FIRST_CENTS).await?;
        // As the database's clock says, to the microsecond.
        let query = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        let between = answer(&scratch.vps, VPS.postgres, query).await?;
        let between: Timestamp = between.parse().with_context(|| format!("the database says {between}"))?;
        customer.pays(&customer.payment(SECOND_CENTS)).await?;
        customer.balance_reaches(FIRST_CENTS + SECOND_CENTS).await?;
        anyhow::Ok(between)
    };
    let between = task.ends(pay.await, |between| format!("between the two it was {between}"))?;

    let task = ui.start("the log of it is in the archive");
    task.ends(archive_now(&scratch.vps).await, |took| format!("after {} s", took.as_secs()))?;

    let result = prove(&scratch, between, customer.email()).await;
    // Whatever came of it, nothing of it stays.
    let cleared = scratch.clear().await;
    result.map_err(|error| {
        anyhow::Error::from(
            Failure::new(Exit::Check, format!("{path} does not become the database of {between}"))
                .why(format!("{error:#}")),
        )
    })?;
    cleared?;
    operator.note_proof(&path).await?;
    ui.note("the platform knows that this copy was restored");
    Ok(())
}

async fn prove(scratch: &Scratch<'_>, between: Timestamp, email: &str) -> anyhow::Result<()> {
    scratch.clear().await?;
    let since = Instant::now();
    let handovers = scratch.handovers()?;
    let directory = format!("{SHARED}/{FILES}");
    let target = Target { to: Some(between), timeline: None };
    let stack = scratch::replayed(&scratch.images, scratch.host, &handovers, &directory, target);
    scratch.bring(stack, &handovers).await?;
    until_promoted(&scratch.vps, scratch::POSTGRES).await?;
    let took = since.elapsed();
    let minutes = OBJECTIVE.as_secs() / 60;
    scratch.ui.done(format!("a database of {between}; the objective is {minutes} minutes"), took);

    let task = scratch.ui.start(email.to_owned());
    task.ends(scratch.has_paid(email, FIRST_CENTS).await, |paid| {
        format!("is there with {paid} nano-dollars, as it was then")
    })?;
    anyhow::ensure!(took < OBJECTIVE, "it took longer than {minutes} minutes");
    Ok(())
}
