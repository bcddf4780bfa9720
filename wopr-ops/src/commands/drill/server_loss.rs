//! `drill server-loss`: the platform's machine is destroyed with everything on it, and made again from the object store.
//!
//! A customer of the drill's own gets a bot with bytes that nobody can guess. Once every bot has a snapshot, a set of the
//! database is made, and then the bot gets more, and another snapshot, which that set does not know. The machine and its
//! volume are removed, and `recover` does the rest: from the archive of the database's log, or from that set. Afterwards
//! every wallet has the balance it had, every bot is there, the customer's has all its bytes, and a new customer can come.
//!
//! With `--kills`, a piece of the log is missing at first: nothing may be brought back without it. Once it is there again, the
//! recovery is killed on its way, so many times, and what it left is gone on with.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bollard::Docker;
use rand::Rng;
use tokio::process::Command;

use super::{
    archived::{archive_directory, archive_full, archive_now, file_name, piece_before_last, until_archived},
    stage::Stage,
    tenant_data::{BYTES, Files, customer_with_bot, files, give_bytes},
};
use crate::{
    cli::{ServerLossArgs, UpArgs},
    commands::{
        images::References,
        recover::{bring_back, up_args},
        up::{
            log_end::PIECE_NAME,
            recovering::{answer, wake_archiving},
            require_root, wanted_images,
        },
    },
    engine,
    exec::{apply::remove_container, disk, frozen, observe::name_of, remove, sites::inside},
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
/// The longest that a recovery is left alone before it is killed, once another has been.
const LONGEST_LIFE: Duration = Duration::from_secs(20);
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
    let images = existing(paths, &engine, &wanted_images(paths, &up_args)?).await?;
    bring_back(ui, paths, &engine, &images, &up_args, Source::Log(Target::default())).await
}

/// The drill, on the two machines that are up: the machine is lost as often as told.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports, losses: &[Loss]) -> anyhow::Result<()> {
    let stage = Stage::new(paths, ports).await?;
    let up_args = up_args(ports, Profile::Dev);
    let images = existing(paths, &stage.engine, &wanted_images(paths, &up_args)?).await?;
    let operator = stage.operator()?;

    let drill = Drill { ui, paths, stage: &stage, up_args, images, operator };
    for loss in losses {
        drill.lose(*loss).await?;
    }

    ui.heading("Happy path");
    let (vps, secret) = (inside(paths, VPS).await?, stage.webhook_secret()?);
    happy_path::walk(ui, &vps, &stage.http, ports.api_port, secret, platform::VPS.postgres, Some(ports.http_port)).await
}

/// What goes through all losses.
struct Drill<'a> {
    ui: &'a Ui,
    paths: &'a Paths,
    stage: &'a Stage,
    up_args: UpArgs,
    images: References,
    operator: Operator<'a>,
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

        let task = ui.start(format!("a customer gets a bot with {BYTES} bytes of its own"));
        let arrive = async {
            let customer = customer_with_bot(self.stage.customer("server-loss")?).await?;
            let container = name_of(&customer.container(&vps).await?);
            give_bytes(&vps, &container, "before").await?;
            anyhow::Ok((customer, container))
        };
        let (customer, container) = task.ends(arrive.await, |(customer, _)| customer.email().to_owned())?;

        let task = ui.start("every bot has a snapshot");
        task.ends(self.operator.wait_for_snapshots(SAVED).await, |()| String::new())?;

        let task = ui.start("the bot's first day is paid");
        task.ends(first_day(&vps, customer.tenant()).await, |()| String::new())?;

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
            give_bytes(&vps, &container, "after").await?;
            let had = files(&vps, &container).await?;
            customer.snapshot().await?;
            anyhow::Ok(had)
        };
        let had = task.ends(more.await, |files| format!("{} files", files.len()))?;

        if loss != Loss::Set {
            let task = ui.start("the log of it is in the archive, and nothing has changed since");
            let archived = async {
                let since = Instant::now();
                if let Loss::Disturbed { .. } = loss {
                    // One that is made later might not need the piece that will be missing.
                    self.operator.base_backup().await?;
                }
                loop {
                    match loss {
                        Loss::Disturbed { .. } => pieces(&vps).await?,
                        _ => until_archived(&vps).await.map(drop)?,
                    }
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
            frozen::ended(&self.stage.engine, VPS, remove_container(&self.stage.engine, VPS, false)).await?;
            remove::volume(&self.stage.engine, VPS_VOLUME).await?;
            disk::remove(&paths.machines(), VPS)
        };
        task.ends(destroyed.await, |()| String::new())?;

        match loss {
            Loss::Log => self.bring_back(Source::Log(Target::default())).await?,
            Loss::Set => self.bring_back(Source::Set).await?,
            Loss::Disturbed { kills } => {
                let refused = self.refuse_hole().await?;
                if !self.kill(kills, refused).await? {
                    self.bring_back(Source::Log(Target::default())).await?;
                }
            }
        }
        let task = ui.start("what is there is what was there");
        let compared = self.compare(&customer, &before).await.map_err(|error| {
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

    /// Takes a piece of the log away, and has it noticed, also by the same command again; answers with how long that took.
    async fn refuse_hole(&self) -> anyhow::Result<Duration> {
        let piece = piece_before_last(&archive_directory(self.paths))?;
        let missing = Aside::new(self.ui, piece, self.paths.data.join(PIECE_ASIDE))?;
        let piece = &file_name(&missing.from)?[..PIECE_NAME];
        self.refused(piece).await?;
        let since = Instant::now();
        self.refused(piece).await?;
        let took = since.elapsed();
        missing.back()?;
        Ok(took)
    }

    async fn refused(&self, piece: &str) -> anyhow::Result<()> {
        let said = match self.bring_back(Source::Log(Target::default())).await {
            Ok(()) => bail!("there is a database, and the piece {piece} of its log was missing"),
            Err(error) => told(&error),
        };
        ensure!(said.contains(piece), "the error does not name the piece {piece}, which is missing: {said}");
        self.ui.note(format!("refused: the piece {piece} of the log is missing"));
        Ok(())
    }

    /// Has the machine brought back by a process that is killed somewhere on its way, so many times; answers with whether one
    /// of them came to its end. The first lives no longer than it took to notice that a piece was missing, which is less than
    /// half of the way.
    async fn kill(&self, kills: u32, refused: Duration) -> anyhow::Result<bool> {
        for number in 0..kills {
            let longest = if number == 0 { refused } else { LONGEST_LIFE };
            let life = longest.mul_f64(rand::rng().random());
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
                    ensure!(
                        number > 0,
                        "a recovery came to its end within {} ms, and none was killed",
                        life.as_millis()
                    );
                    self.ui.note("a recovery came to its end before it was killed");
                    return Ok(true);
                }
                Err(_) => child.kill().await?,
            }
            self.ui.note(format!("a recovery was killed after {} ms", life.as_millis()));
        }
        Ok(false)
    }

    async fn compare(&self, customer: &Customer<'_>, before: &Holdings) -> anyhow::Result<()> {
        let vps = inside(self.paths, VPS).await?;
        customer.bot_runs().await?;
        let container = name_of(&customer.container(&vps).await?);
        let after = Holdings {
            files: files(&vps, &container).await?,
            wallets: rows(&vps, WALLETS).await?,
            bots: rows(&vps, BOTS).await?,
        };
        ensure!(after == *before, "there was {before:?}, and there is {after:?}");
        Ok(())
    }
}

/// A file that is somewhere else until it is put back, also where something fails meanwhile. Whoever is killed leaves it there.
struct Aside<'a> {
    ui: &'a Ui,
    from: PathBuf,
    to: PathBuf,
}

impl<'a> Aside<'a> {
    fn new(ui: &'a Ui, from: PathBuf, to: PathBuf) -> anyhow::Result<Self> {
        ensure!(!to.exists(), "{} is there: it is to be put back into the archive first", to.display());
        ui.note(format!("{} is {} meanwhile", from.display(), to.display()));
        fs::rename(&from, &to).with_context(|| format!("{} cannot be taken away", from.display()))?;
        Ok(Self { ui, from, to })
    }

    fn back(&self) -> anyhow::Result<()> {
        fs::rename(&self.to, &self.from).with_context(|| format!("{} cannot be put back", self.to.display()))
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        if self.to.exists()
            && let Err(error) = self.back()
        {
            self.ui.error(&error);
        }
    }
}

/// Puts the log into the archive, so that the piece before the last ends somewhere within, and the one before that because it
/// is full: what is missing then follows one that ends within a record.
async fn pieces(engine: &Docker) -> anyhow::Result<()> {
    archive_full(engine).await?;
    archive_now(engine).await?;
    // Without anything written since, there would be no other piece.
    wake_archiving(engine, platform::VPS.postgres).await?;
    archive_now(engine).await.map(drop)
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
