//! `recover`: the platform's machine is lost; it is made again, with all it had.
//!
//! The database comes from the archive of its log, or from the newest set, in the object store; each bot from its newest
//! snapshot. Besides the store only the secrets are needed, which are kept apart from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use bollard::Docker;

use super::{http_client, images::References, up::Work};
use crate::{
    cli::{RecoverArgs, UpArgs},
    commands::up,
    engine,
    failure::{Exit, Failure},
    images::binaries::Profile,
    operator::Operator,
    paths::Paths,
    plan::{
        archive::Target,
        platform::{Ports, Source},
    },
    secrets::Secrets,
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &RecoverArgs) -> anyhow::Result<()> {
    let since = Instant::now();
    up::require_root()?;
    let _lock = super::lock(paths)?;
    ui.heading("Docker engine");
    let engine = engine::ensure(ui, paths).await?;
    let source = if args.from_set { Source::Set } else { Source::Log(Target { to: args.to, timeline: args.timeline }) };
    let args = up_args(args.ports, args.profile);
    let images = up::images(ui, paths, &engine, &args).await?;
    bring_back(ui, paths, &engine, &images, &args, source).await?;
    ui.done("the machine is back", since.elapsed());
    Ok(())
}

/// All of both machines, without the proof by a new customer.
pub(crate) fn up_args(ports: Ports, profile: Profile) -> UpArgs {
    UpArgs {
        flat: false,
        dry_run: false,
        json: false,
        bundle: None,
        disk: None,
        no_prove: true,
        profile,
        only: Vec::new(),
        ports,
    }
}

/// From images to a machine on which everybody's bot has its data.
pub(crate) async fn bring_back(
    ui: &Ui,
    paths: &Paths,
    engine: &Docker,
    images: &References,
    args: &UpArgs,
    source: Source,
) -> anyhow::Result<()> {
    let secrets = Secrets::read(&paths.data.join("secrets")).map_err(|error| {
        anyhow::Error::from(
            Failure::new(Exit::Environment, "the secrets of what was lost are not all here")
                .why(format!("{error:#}"))
                .fix("put them back from where they are kept: without them nothing in the store can be read"),
        )
    })?;
    let work = Work::new(ui, paths, engine, images, args).await?;
    let recovery = work.recover(source).await?;
    ui.note(format!("{} snapshots and sets were in the store that the database did not know", recovery.found));

    let since = Instant::now();
    let http = http_client()?;
    let token = secrets.get("FLEET_API_TOKEN_ADMIN")?;
    let operator = Operator { http: &http, port: args.ports.api_port, token };
    let mut by_tenant = BTreeMap::<&str, BTreeSet<&str>>::new();
    for restore in &recovery.restoring {
        by_tenant.entry(&restore.tenant).or_default().insert(&restore.id);
    }
    let failed = operator.wait_for_all(by_tenant).await?;
    let restored = recovery.restoring.len() - failed.len();
    ui.done(format!("{restored} bots have the data of their newest snapshots"), since.elapsed());
    work.has_recovered().await?;
    let lost = recovery.without_snapshot.iter().map(|bot| format!("the store has no snapshot of {bot}"));
    let unclear = recovery.failed.iter().map(|unclear| format!("{}: {}", unclear.bot, unclear.reason));
    let problems: Vec<String> = lost.chain(unclear).chain(failed).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Check, "not every bot has what it had").why(problems.join("; ")).into())
}
