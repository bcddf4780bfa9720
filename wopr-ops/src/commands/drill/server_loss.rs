//! `drill server-loss`: the platform's machine is destroyed with everything on it, and made again from the object store.
//!
//! A customer of the drill's own gets a bot with bytes that nobody can guess. Once every bot has a snapshot, a set of the
//! database is made, and then the bot gets more, and another snapshot, which that set does not know. The machine and its
//! volume are removed, and `recover` does the rest: from the archive of the database's log, or from that set. Afterwards
//! every wallet has the balance it had, every bot is there, the customer's has both, and a new customer can come.

use std::time::{Duration, Instant};

use bollard::Docker;

use super::{
    archived::until_archived,
    tenant_data::{BYTES, customer_with_bot, files, give_bytes},
};
use crate::{
    cli::ServerLossArgs,
    clock::unix_seconds,
    commands::{
        http_client,
        recover::{bring_back, up_args},
        up::{recovering::answer, require_root, wanted_images},
    },
    engine,
    exec::{apply::remove_container, disk, observe::name_of, remove, sites::inside},
    failure::{Exit, Failure},
    happy_path::{self, Customer},
    images::{binaries::Profile, existing},
    operator::Operator,
    paths::Paths,
    plan::{
        archive::Target,
        machines::{VPS, VPS_VOLUME},
        platform::{self, Ports, Source},
    },
    secrets::Secrets,
    ui::Ui,
};

/// How long the replacement of a machine may take.
const OBJECTIVE: Duration = Duration::from_hours(2);
/// How long every bot may take to have a snapshot.
const SAVED: Duration = Duration::from_mins(10);
/// How long the first day of a bot may take to be charged, and how often is asked.
const CHARGED: Duration = Duration::from_mins(3);
const PACE: Duration = Duration::from_millis(500);
const WALLETS: &str = "SELECT tenant_id, balance_nanos FROM wopr.wallets ORDER BY 1";
const BOTS: &str = "SELECT id, tenant_id, name, desired_state FROM wopr.bots ORDER BY 1";

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &ServerLossArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    let source = if args.from_set { Source::Set } else { Source::Log(Target::default()) };
    rehearse(ui, paths, args.ports, source).await
}

/// The drill, on the two machines that are up.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports, source: Source) -> anyhow::Result<()> {
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

    let task = ui.start("the bot's first day is paid");
    task.ends(first_day(&vps, customer.tenant()).await, |()| String::new())?;

    let known = async || anyhow::Ok((rows(&vps, WALLETS).await?, rows(&vps, BOTS).await?));
    let task = ui.start("a set of the database, and nothing has changed meanwhile");
    let set = async {
        loop {
            let before = known().await?;
            let set = operator.database_set().await?;
            // A bot's day may have been charged.
            if known().await? == before {
                return anyhow::Ok((set, before));
            }
        }
    };
    let (_, mut before) = task.ends(set.await, |(set, (wallets, bots))| {
        format!("{}: {} wallets and {} bots", set.path, wallets.lines().count(), bots.lines().count())
    })?;

    let task = ui.start("the bot gets more, and a snapshot that the set does not know");
    let more = async {
        give_bytes(&vps, &container).await?;
        let had = files(&vps, &container).await?;
        customer.snapshot().await?;
        anyhow::Ok(had)
    };
    let had = task.ends(more.await, |files| format!("{} files", files.len()))?;

    if let Source::Log(_) = source {
        let task = ui.start("the log of it is in the archive, and nothing has changed since");
        let archived = async {
            let since = Instant::now();
            loop {
                until_archived(&vps).await?;
                let now = known().await?;
                if now == before {
                    return anyhow::Ok(since.elapsed());
                }
                before = now;
            }
        };
        task.ends(archived.await, |took| format!("after {} s", took.as_secs()))?;
    }

    let since = Instant::now();
    let task = ui.start(format!("{VPS} is destroyed, with its volume"));
    let destroyed = async {
        remove_container(&engine, VPS, false).await?;
        remove::volume(&engine, VPS_VOLUME).await?;
        disk::remove(&paths.machines(), VPS)
    };
    task.ends(destroyed.await, |()| String::new())?;

    bring_back(ui, paths, &engine, &images, &up_args, source).await?;
    let vps = inside(paths, VPS).await?;
    let task = ui.start("what is there is what was there");
    let compared = async {
        customer.bot_runs().await?;
        let container = name_of(&customer.container(&vps).await?);
        let after = (files(&vps, &container).await?, (rows(&vps, WALLETS).await?, rows(&vps, BOTS).await?));
        let before = (had, before);
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
    answer(engine, platform::VPS.postgres, query).await
}

/// Waits until the day of the tenant's bot is charged: it would be once the machine is back, and change a balance.
async fn first_day(engine: &Docker, tenant: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    let query = format!(
        "SELECT count(*) FROM wopr.bot_charges c JOIN wopr.bots b ON b.id = c.bot_id
         WHERE b.tenant_id = '{tenant}' AND c.state = 'charged'"
    );
    while rows(engine, &query).await? == "0" {
        anyhow::ensure!(since.elapsed() < CHARGED, "no day of the bot is charged after {} s", CHARGED.as_secs());
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}
