//! `drill server-loss`: the platform's machine is destroyed with everything on it, and made again from the object store.
//!
//! A customer of the drill's own gets a bot with bytes that nobody can guess. Once every bot has a snapshot, a set of the
//! database is made, and then the bot gets more, and another snapshot, which that set does not know. The machine and its
//! volume are removed, and `recover` does the rest. Afterwards every wallet has the balance it had, every bot is there, the
//! customer's has both, and a new customer can come.

use std::time::{Duration, Instant};

use bollard::Docker;

use super::tenant_data::{BYTES, customer_with_bot, files, give_bytes};
use crate::{
    cli::DrillArgs,
    clock::unix_seconds,
    commands::{
        http_client,
        recover::{bring_back, up_args},
        up::{require_root, wanted_images},
    },
    engine,
    exec::{apply::remove_container, disk, observe::name_of, ready::output_of, remove, sites::inside},
    failure::{Exit, Failure},
    happy_path::{self, Customer},
    images::{binaries::Profile, existing},
    operator::Operator,
    paths::Paths,
    plan::{
        machines::{VPS, VPS_VOLUME},
        platform::{self, DATABASE, Ports},
    },
    secrets::Secrets,
    ui::Ui,
};

/// How long the replacement of a machine may take.
const OBJECTIVE: Duration = Duration::from_hours(2);
/// How long every bot may take to have a snapshot.
const SAVED: Duration = Duration::from_mins(10);
const WALLETS: &str = "SELECT tenant_id, balance_nanos FROM wopr.wallets ORDER BY 1";
const BOTS: &str = "SELECT id, tenant_id, name, desired_state FROM wopr.bots ORDER BY 1";

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &DrillArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    rehearse(ui, paths, args.ports).await
}

/// The drill, on the two machines that are up.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    let (engine, http) = (engine::require().await?, http_client()?);
    let secrets = Secrets::existing(&paths.data.join("secrets"))?;
    let up_args = up_args(ports, Profile::Dev);
    let images = existing(&engine, &wanted_images(paths, &up_args)?).await?;
    let webhook_secret = secrets.get("STRIPE_WEBHOOK_SECRET")?;
    let operator = Operator { http: &http, port: ports.api_port, token: secrets.get("FLEET_API_TOKEN_ADMIN")? };
    let vps = inside(paths, VPS).await?;

    let task = ui.start(format!("a customer gets a bot with {BYTES} bytes of its own"));
    let name = format!("server-loss-{}", unix_seconds());
    let customer = customer_with_bot(Customer::new(&http, ports.api_port, webhook_secret, &name));
    let customer = task.ends(customer.await, |customer| customer.email().to_owned())?;
    let container = name_of(&customer.container(&vps).await?);

    let task = ui.start("every bot has a snapshot");
    task.ends(operator.wait_for_snapshots(SAVED).await, |()| String::new())?;

    let task = ui.start("a set of the database");
    task.ends(operator.database_set().await, |set| set.path.clone())?;

    let task = ui.start("the bot gets more, and a snapshot that the set does not know");
    let more = async {
        give_bytes(&vps, &container).await?;
        let had = files(&vps, &container).await?;
        customer.snapshot().await?;
        anyhow::Ok((had, rows(&vps, WALLETS).await?, rows(&vps, BOTS).await?))
    };
    let before = task.ends(more.await, |(files, wallets, bots)| {
        format!(
            "{} files; {} wallets and {} bots are known",
            files.len(),
            wallets.lines().count(),
            bots.lines().count()
        )
    })?;

    let since = Instant::now();
    let task = ui.start(format!("{VPS} is destroyed, with its volume"));
    let destroyed = async {
        remove_container(&engine, VPS, false).await?;
        remove::volume(&engine, VPS_VOLUME).await?;
        disk::remove(&paths.machines(), VPS)
    };
    task.ends(destroyed.await, |()| String::new())?;

    bring_back(ui, paths, &engine, &images, &up_args).await?;
    let vps = inside(paths, VPS).await?;
    let task = ui.start("what is there is what was there");
    let compared = async {
        customer.bot_runs().await?;
        let container = name_of(&customer.container(&vps).await?);
        let after = (files(&vps, &container).await?, rows(&vps, WALLETS).await?, rows(&vps, BOTS).await?);
        anyhow::ensure!(after == before, "there was {before:?}, and there is {after:?}");
        anyhow::Ok(())
    };
    let compared = compared.await.map_err(|error| {
        anyhow::Error::from(
            Failure::new(Exit::Check, "the loss of the machine cost somebody something").why(format!("{error:#}")),
        )
    });
    task.ends(compared, |()| "every wallet, every bot, every byte of the customer's".to_owned())?;
    let took = since.elapsed();
    let hours = OBJECTIVE.as_secs() / 3600;
    ui.done(format!("from the loss to all that was there; the objective is {hours} hours"), took);
    anyhow::ensure!(took < OBJECTIVE, "it took longer than {hours} hours");

    ui.heading("Happy path");
    happy_path::walk(ui, &vps, &http, ports.api_port, webhook_secret, platform::VPS.postgres, true).await
}

async fn rows(engine: &Docker, query: &str) -> anyhow::Result<String> {
    let command = ["psql", "-h", "/run/postgresql", "-U", DATABASE, "-Atc", query];
    output_of(engine, platform::VPS.postgres, &command).await
}
