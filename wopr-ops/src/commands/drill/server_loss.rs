//! `drill server-loss`: the platform's machine is destroyed with everything on it, and made again from the object store.
//!
//! A customer of the drill's own gets a bot with bytes that nobody can guess. Once every bot has a snapshot, a set of the
//! database is made, and then the bot gets more, and another snapshot, which that set does not know. The machine and its
//! volume are removed, and `recover` does the rest: from the archive of the database's log, or from that set. Afterwards
//! every wallet has the balance it had, every bot is there, the customer's has both, and a new customer can come.
//!
//! With `--kills`, a piece of the log is missing at first: nothing may be brought back without it. Once it is there again, the
//! recovery is killed on its way, so many times, and what it left is gone on with.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bollard::Docker;
use rand::Rng;
use tokio::process::Command;

use super::{
    archived::{
        archive_directory, archive_full, archive_now, name_of as name_of_path, piece_before_last, until_archived,
    },
    stage::Stage,
    tenant_data::{BYTES, Files, customer_with_bot, files, give_bytes},
};
use crate::{
    cli::{ServerLossArgs, UpArgs},
    commands::{
        images::References,
        recover::{bring_back, up_args},
        up::{log_end::PIECE_NAME, recovering::answer, require_root, wanted_images},
    },
    engine,
    exec::{apply::remove_container, disk, observe::name_of, remove, sites::inside},
    failure::{Exit, Failure, told},
    happy_path::{self, Customer},
    images::{binaries::Profile, existing},
    operator::Operator,
    paths::Paths,
    plan::{
        archive::Target,
        machines::{VPS, VPS_VOLUME},
        platform::{self, Ports, Source},
    },
    ui::Ui,
};

/// How long the replacement of a machine may take.
const OBJECTIVE: Duration = Duration::from_hours(2);
/// How long every bot may take to have a snapshot.
const SAVED: Duration = Duration::from_mins(10);
/// How long the first day of a bot may take to be charged, and how often is asked.
const CHARGED: Duration = Duration::from_mins(3);
const PACE: Duration = Duration::from_millis(500);
/// The longest that a recovery is left alone before it is killed, in milliseconds.
const LONGEST_LIFE: u64 = 10_000;
/// Where a piece of the log is while it is missing.
const PIECE_ASIDE: &str = "piece-aside";
const WALLETS: &str = "SELECT tenant_id, balance_nanos FROM wopr.wallets ORDER BY 1";
const BOTS: &str = "SELECT id, tenant_id, name, desired_state FROM wopr.bots ORDER BY 1";

/// How the machine is lost, and from what it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The database comes from the archive of its log.
    Log,
    /// The same; but at first a piece of the log is missing, and then `recover` is killed so many times.
    Disturbed { kills: u32 },
    /// The database comes from its newest set.
    Set,
}

impl Loss {
    const fn name(self) -> &'static str {
        match self {
            Self::Log => "from the log",
            Self::Disturbed { .. } => "from a log with a hole, by a recovery that is killed",
            Self::Set => "from a set",
        }
    }
}

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &ServerLossArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    let loss = match (args.from_set, args.kills) {
        (true, _) => Loss::Set,
        (false, Some(kills)) => Loss::Disturbed { kills },
        (false, None) => Loss::Log,
    };
    rehearse(ui, paths, args.ports, &[loss]).await
}

/// What a process of the drill does that is killed.
pub(crate) async fn inside_process(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    let engine = engine::require().await?;
    let up_args = up_args(ports, Profile::Dev);
    let images = existing(&engine, &wanted_images(paths, &up_args)?).await?;
    bring_back(ui, paths, &engine, &images, &up_args, Source::Log(Target::default())).await
}

/// The drill, on the two machines that are up: the machine is lost as often as told.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports, losses: &[Loss]) -> anyhow::Result<()> {
    let stage = Stage::new(paths, ports).await?;
    let up_args = up_args(ports, Profile::Dev);
    let images = existing(&stage.engine, &wanted_images(paths, &up_args)?).await?;
    let operator = stage.operator()?;
    let vps = inside(paths, VPS).await?;

    let task = ui.start(format!("a customer gets a bot with {BYTES} bytes of its own"));
    let customer = customer_with_bot(stage.customer("server-loss")?);
    let customer = task.ends(customer.await, |customer| customer.email().to_owned())?;

    let task = ui.start("every bot has a snapshot");
    task.ends(operator.wait_for_snapshots(SAVED).await, |()| String::new())?;

    let task = ui.start("the bot's first day is paid");
    task.ends(first_day(&vps, customer.tenant()).await, |()| String::new())?;

    let drill = Drill { ui, paths, stage: &stage, up_args, images, operator, customer };
    for loss in losses {
        drill.lose(*loss).await?;
    }

    ui.heading("Happy path");
    let (vps, secret) = (inside(paths, VPS).await?, stage.webhook_secret()?);
    happy_path::walk(ui, &vps, &stage.http, ports.api_port, secret, platform::VPS.postgres, true).await
}

/// What goes through all losses.
struct Drill<'a> {
    ui: &'a Ui,
    paths: &'a Paths,
    stage: &'a Stage,
    up_args: UpArgs,
    images: References,
    operator: Operator<'a>,
    customer: Customer<'a>,
}

/// What must be there afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    files: Files,
    wallets: String,
    bots: String,
}

impl Drill<'_> {
    async fn lose(&self, loss: Loss) -> anyhow::Result<()> {
        let (ui, paths) = (self.ui, self.paths);
        ui.heading(loss.name());
        let vps = inside(paths, VPS).await?;
        let container = name_of(&self.customer.container(&vps).await?);

        let known = async || anyhow::Ok((rows(&vps, WALLETS).await?, rows(&vps, BOTS).await?));
        let task = ui.start("a set of the database, and nothing has changed meanwhile");
        let set = async {
            loop {
                let before = known().await?;
                let set = self.operator.database_set().await?;
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
            self.customer.snapshot().await?;
            anyhow::Ok(had)
        };
        let had = task.ends(more.await, |files| format!("{} files", files.len()))?;

        if loss != Loss::Set {
            let task = ui.start("the log of it is in the archive, and nothing has changed since");
            let archived = async {
                let since = Instant::now();
                loop {
                    match loss {
                        Loss::Log | Loss::Set => until_archived(&vps).await?,
                        // Else there might be no piece before the last that anybody misses.
                        Loss::Disturbed { .. } => archive_full(&vps).await? + archive_now(&vps).await?,
                    };
                    let now = known().await?;
                    if now == before {
                        return anyhow::Ok(since.elapsed());
                    }
                    before = now;
                }
            };
            task.ends(archived.await, |took| format!("after {} s", took.as_secs()))?;
        }
        let (wallets, bots) = before;
        let before = Holdings { files: had, wallets, bots };

        let since = Instant::now();
        let task = ui.start(format!("{VPS} is destroyed, with its volume"));
        let destroyed = async {
            remove_container(&self.stage.engine, VPS, false).await?;
            remove::volume(&self.stage.engine, VPS_VOLUME).await?;
            disk::remove(&paths.machines(), VPS)
        };
        task.ends(destroyed.await, |()| String::new())?;

        match loss {
            Loss::Log => self.bring_back(Source::Log(Target::default())).await?,
            Loss::Set => self.bring_back(Source::Set).await?,
            Loss::Disturbed { kills } => {
                self.refuse_hole().await?;
                if !self.kill(kills).await? {
                    self.bring_back(Source::Log(Target::default())).await?;
                }
            }
        }
        let task = ui.start("what is there is what was there");
        let compared = self.compare(&before).await.map_err(|error| {
            anyhow::Error::from(
                Failure::new(Exit::Check, "the loss of the machine cost somebody something").why(format!("{error:#}")),
            )
        });
        task.ends(compared, |()| "every wallet, every bot, every byte of the customer's".to_owned())?;
        let took = since.elapsed();
        let hours = OBJECTIVE.as_secs() / 3600;
        ui.done(format!("from the loss to all that was there; the objective is {hours} hours"), took);
        anyhow::ensure!(took < OBJECTIVE, "it took longer than {hours} hours");
        Ok(())
    }

    async fn bring_back(&self, source: Source) -> anyhow::Result<()> {
        bring_back(self.ui, self.paths, &self.stage.engine, &self.images, &self.up_args, source).await
    }

    /// Takes a piece of the log away, and has it noticed, also by the same command again.
    async fn refuse_hole(&self) -> anyhow::Result<()> {
        let piece = piece_before_last(&archive_directory(self.paths))?;
        let aside = self.paths.data.join(PIECE_ASIDE);
        fs::rename(&piece, &aside).with_context(|| format!("{} cannot be taken away", piece.display()))?;
        let refused = self.refused(&name_of_path(&piece)?[..PIECE_NAME]).await;
        // Whatever came of it, nobody's log stays without it.
        fs::rename(&aside, &piece).with_context(|| format!("{} cannot be put back", piece.display()))?;
        refused
    }

    async fn refused(&self, piece: &str) -> anyhow::Result<()> {
        for attempt in ["once", "again"] {
            let said = match self.bring_back(Source::Log(Target::default())).await {
                Ok(()) => bail!("there is a database, and the piece {piece} of its log was missing"),
                Err(error) => told(&error),
            };
            ensure!(said.contains(piece), "the error does not name the piece {piece}, which is missing: {said}");
            self.ui.note(format!("refused {attempt}: the piece {piece} of the log is missing"));
        }
        Ok(())
    }

    /// Has the machine brought back by a process that is killed somewhere on its way, so many times; answers with whether one
    /// of them came to its end.
    async fn kill(&self, kills: u32) -> anyhow::Result<bool> {
        for _ in 0..kills {
            let life = Duration::from_millis(rand::rng().random_range(0..LONGEST_LIFE));
            let mut child = Command::new(std::env::current_exe()?)
                .args(["drill", "server-loss-inside"])
                .args(self.stage.ports.flags())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .context("a recovery could not be started")?;
            match tokio::time::timeout(life, child.wait()).await {
                Ok(ended) => {
                    let ended = ended?;
                    ensure!(ended.success(), "a recovery ended with {ended}; what it said is above");
                    self.ui.note("a recovery came to its end before it was killed");
                    return Ok(true);
                }
                Err(_) => child.kill().await?,
            }
            self.ui.note(format!("a recovery was killed after {} ms", life.as_millis()));
        }
        Ok(false)
    }

    async fn compare(&self, before: &Holdings) -> anyhow::Result<()> {
        let vps = inside(self.paths, VPS).await?;
        self.customer.bot_runs().await?;
        let container = name_of(&self.customer.container(&vps).await?);
        let after = Holdings {
            files: files(&vps, &container).await?,
            wallets: rows(&vps, WALLETS).await?,
            bots: rows(&vps, BOTS).await?,
        };
        ensure!(after == *before, "there was {before:?}, and there is {after:?}");
        Ok(())
    }
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
