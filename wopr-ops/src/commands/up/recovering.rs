//! The platform's machine after its loss, with what the object store has of it.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::{Docker, query_parameters::InspectContainerOptions};
use serde::Deserialize;

use super::{Work, log_end::has_read_all, prune};
use crate::{
    exec::{
        apply::{apply, remove_container},
        observe::{container, observe},
        ready::{last_lines, logs_of, output_of},
        remove::volume as remove_volume,
        sites::{inside, position},
        transfer::Arrivals,
    },
    failure::{Exit, Failure},
    paths::{private_directory, remove_directory},
    plan::{
        machines::{self, GPU, VPS},
        platform::{self, DATABASE, ELSEWHERE, Place, Progress, Source},
        spec::{Service, Stack, State},
        steps::plan,
    },
    secrets::write_private,
};

/// How long a database may take to read its log.
const REPLAY_LIMIT: Duration = Duration::from_hours(2);
/// How to give up what is on the machine.
const BEGIN_ANEW: &str = "`docker rm -f wopr-vps` and `docker volume rm wopr-vps-docker-data` first";
/// What to do about a log that does not have what is wanted of it.
const OTHER_TARGET: &str = "another instant; without one, the log is read to its end. Each database that was restored has begun another line, `--timeline` names an earlier one";
/// What a database says when it cannot be what it was told to become, what that means, and what to do about it.
const IMPOSSIBLE: [(&str, &str, &str); 4] = [
    (
        "recovery ended before configured recovery target was reached",
        "the log does not reach that instant",
        OTHER_TARGET,
    ),
    (
        "requested recovery stop point is before consistent recovery point",
        "the log begins after that instant",
        OTHER_TARGET,
    ),
    ("is not a child of this server's history", "that instant is of another line of history", OTHER_TARGET),
    (
        "from archive: child process exited with exit code 255",
        "a piece of the log cannot be read from the archive",
        "the same command again goes on once the store can be read; `--to` with an instant before a damaged piece, or `--from-set`, does without it",
    ),
];
/// How much of what it said last is looked at.
const SAID_LINES: usize = 20;
/// How often it is asked.
const PACE: Duration = Duration::from_millis(200);

/// What `wopr-api recover` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recovery {
    /// Snapshots and sets in the store that the restored database did not know.
    pub(crate) found: usize,
    /// What the API restores now.
    pub(crate) restoring: Vec<Restoring>,
    /// Bots whose data is lost.
    pub(crate) without_snapshot: Vec<String>,
    /// Bots that were not looked at to the end.
    pub(crate) failed: Vec<Unclear>,
}

/// A restore that has begun.
#[derive(Debug, Deserialize)]
pub(crate) struct Restoring {
    pub(crate) id: String,
    pub(crate) tenant: String,
}

/// What is wrong with a bot's snapshots.
#[derive(Debug, Deserialize)]
pub(crate) struct Unclear {
    pub(crate) bot: String,
    pub(crate) reason: String,
}

/// How far the recovery has got that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The database is being restored: what there is of it may be half.
    Filling,
    /// The database has been restored.
    Filled,
}

impl Mark {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Filling => "filling",
            Self::Filled => "filled",
        }
    }
}

impl Work<'_> {
    /// Refuses an empty platform beside a store with its backups, and half a recovery: whoever serves before everybody's data
    /// is back gives bots new volumes with nothing on them.
    pub(super) async fn refuse_loss(&self) -> anyhow::Result<()> {
        if self.mark()?.is_some() {
            return Err(Failure::new(Exit::Environment, format!("{VPS} is half recovered"))
                .why("`cargo wopr recover` was interrupted, or failed")
                .fix("`cargo wopr recover` goes on; `cargo wopr down --volumes` gives it up")
                .into());
        }
        let bucket = self.elsewhere().join("objects").join(platform::BUCKET);
        let has_backups = fs::read_dir(&bucket).is_ok_and(|mut entries| entries.next().is_some());
        if !has_backups || self.has_volume().await {
            return Ok(());
        }
        Err(Failure::new(Exit::Environment, format!("{VPS} has been lost"))
            .why(format!("its volume is gone, and the object store has backups: {}", bucket.display()))
            .fix("`cargo wopr recover` brings back what it had; `cargo wopr down --volumes` gives it up")
            .into())
    }

    async fn has_volume(&self) -> bool {
        self.engine.inspect_volume(machines::VPS_VOLUME).await.is_ok()
    }

    /// What does not go with the machine.
    fn elsewhere(&self) -> PathBuf {
        self.paths.machines().join(VPS).join(ELSEWHERE)
    }

    /// A file that is there while a recovery is under way.
    fn mark_file(&self) -> PathBuf {
        self.elsewhere().join("recovering")
    }

    fn mark(&self) -> anyhow::Result<Option<Mark>> {
        match fs::read_to_string(self.mark_file()) {
            Ok(text) if text == Mark::Filled.as_str() => Ok(Some(Mark::Filled)),
            Ok(_) => Ok(Some(Mark::Filling)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", self.mark_file().display())),
        }
    }

    fn set_mark(&self, mark: Mark) -> anyhow::Result<()> {
        private_directory(&self.elsewhere())?;
        write_private(&self.mark_file(), mark.as_str())
    }

    /// The platform's machine, which was lost, with what the object store has of it. Answers with what `wopr-api recover`
    /// says it wants restored. Whoever has waited for that says so with [`Work::has_recovered`].
    pub(crate) async fn recover(&self, source: Source) -> anyhow::Result<Recovery> {
        self.ui.heading("The machine");
        let mut since = Instant::now();
        let mut phase = |what: &str| {
            self.ui.done(what, since.elapsed());
            since = Instant::now();
        };
        if !self.has_volume().await {
            self.set_mark(Mark::Filling)?;
        }
        self.machines().await?;
        let (vps, host) = (inside(self.paths, VPS).await?, position(self.engine, VPS).await?);
        let files = platform::recovery_handovers(Place::Machine(host), |name| self.secrets.get(name))?;
        let stack = |progress| self.vps_from(host, &files, |inputs| platform::recovery(inputs, source, progress));
        let filling = stack(Progress::Empty)?;
        let wanted = self.images_of(&filling)?;
        self.load_into(VPS, &vps, &wanted, &Arrivals::default()).await?;
        self.prepare(VPS, &filling, &files)?;
        let is_restored = self.is_restored(&vps, &stack(Progress::Whole)?, &filling, source.reader()).await?;
        let progress = match self.mark()? {
            Some(Mark::Filled) => Progress::Whole,
            _ if is_restored => Progress::Filled,
            _ => Progress::Empty,
        };
        if progress == Progress::Empty {
            self.set_mark(Mark::Filling)?;
        }
        phase("the machine runs and has its images");

        let database = platform::VPS.postgres;
        if progress != Progress::Whole {
            self.fill_database(&vps, &stack(progress)?, source, progress).await?;
            self.set_mark(Mark::Filled)?;
        }
        let stack = stack(Progress::Whole)?;
        self.ui.heading(database);
        self.bring_part(&vps, &stack, database).await?;
        wake_archiving(&vps, database).await?;
        if let Source::Log(_) = source {
            let timeline = answer(&vps, database, "SELECT timeline_id FROM pg_control_checkpoint()").await?;
            self.ui.note(format!(
                "from here on its history is line {timeline}; what another line has, `--timeline` reads"
            ));
        }
        phase(match source {
            Source::Set => "the database has every row of the newest set",
            Source::Log(_) => "the database has what its log tells",
        });
        for (last, what) in
            [(platform::RECOVER, "it knows what the store has of every bot"), (platform::VPS.api, "the API serves")]
        {
            self.ui.heading(last);
            self.bring_part(&vps, &stack, last).await?;
            phase(what);
        }
        let said = logs_of(&vps, platform::RECOVER).await?;
        let line = said.lines().rev().find(|line| line.starts_with('{')).context("`recover` said nothing")?;
        let recovery = serde_json::from_str(line).with_context(|| format!("`recover` said {line}"))?;

        let (stack, _) = self.vps(host)?;
        let gpu = inside(self.paths, GPU).await?;
        let production = self.production(&gpu).await?;
        let (gpu_stack, gpu_files) = self.gpu(position(self.engine, GPU).await?, production.as_ref())?;
        let plan = plan(&stack, &observe(&vps, &stack).await?);
        let rest = apply(self.ui, &vps, &self.http, &stack, &plan);
        tokio::try_join!(rest, self.fill(GPU, &gpu, gpu_stack, &gpu_files))?;
        prune(&vps, &wanted).await?;
        self.seed(production.is_some()).await?;
        phase("the rest runs");
        Ok(recovery)
    }

    /// The database, from the source to all that it is to have. It has not served yet.
    async fn fill_database(
        &self,
        vps: &Docker,
        stack: &Stack,
        source: Source,
        progress: Progress,
    ) -> anyhow::Result<()> {
        let database = platform::VPS.postgres;
        let first = match (source, progress) {
            (Source::Set, Progress::Empty) => platform::RESTORE,
            _ => database,
        };
        self.ui.heading(if progress == Progress::Empty { source.reader() } else { database });
        if let Err(error) = self.bring_part(vps, stack, first).await {
            return Err(if matches!(source, Source::Log(_)) { unreadable(vps, database, error).await } else { error });
        }
        until_promoted(vps, database).await?;
        if matches!(source, Source::Log(target) if target.to.is_none()) {
            wake_archiving(vps, database).await?;
            if let Err(error) = has_read_all(vps, database).await {
                // It has gone its own way, and reads no more, whatever the archive has by the next attempt.
                remove_database(vps).await.with_context(|| format!("after {error:#}"))?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Everybody has what could be had: nothing is recovered again.
    pub(crate) async fn has_recovered(&self) -> anyhow::Result<()> {
        let vps = inside(self.paths, VPS).await?;
        for name in [platform::RECOVER, platform::RESTORE, platform::REPLAY] {
            remove_container(&vps, name, false).await?;
            // With the secrets that it was handed.
            remove_directory(&self.files(VPS).join(name))?;
        }
        match fs::remove_file(self.mark_file()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", self.mark_file().display()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the database has been filled. What is there otherwise goes: half a database is none. One that nobody has
    /// begun to fill has to be empty. `stack` is without the `reader` that fills the database; `filling` has it.
    async fn is_restored(&self, vps: &Docker, stack: &Stack, filling: &Stack, reader: &str) -> anyhow::Result<bool> {
        let database = platform::VPS.postgres;
        let wanted = filling.services.iter().find(|service| service.name == reader).map(Service::aspects);
        match self.mark()? {
            Some(Mark::Filled) => {
                let command = |aspects: &BTreeMap<String, String>| aspects.get("command").cloned();
                let mut is_as_wanted = true;
                for name in [platform::RESTORE, platform::REPLAY] {
                    if let Some(found) = container(vps, name).await? {
                        is_as_wanted = name == reader && command(&found.aspects) == wanted.as_ref().and_then(command);
                    }
                }
                if is_as_wanted {
                    return Ok(true);
                }
                return Err(Failure::new(
                    Exit::Environment,
                    format!("{database} has been restored from something else"),
                )
                .why("this recovery was begun with other flags")
                .fix(format!("the flags it was begun with; or, to begin anew: {BEGIN_ANEW}"))
                .into());
            }
            Some(Mark::Filling) => {
                match container(vps, reader).await? {
                    Some(found) if Some(&found.aspects) == wanted.as_ref() => match found.state {
                        State::Exited(0) => return Ok(true),
                        State::Running => return Ok(false),
                        _ => remove_database(vps).await?,
                    },
                    _ => remove_database(vps).await?,
                }
                return Ok(false);
            }
            None => {}
        }
        if vps.inspect_volume(platform::POSTGRES_VOLUME).await.is_err() {
            return Ok(false);
        }
        self.bring_part(vps, stack, database).await?;
        until_promoted(vps, database).await?;
        let query = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
        let tables = answer(vps, database, query).await?;
        if tables == "0" {
            // An archive is read into no database that is there.
            remove_database(vps).await?;
            return Ok(false);
        }
        Err(Failure::new(Exit::Environment, "there is nothing to recover")
            .why(format!("{database} has {tables} tables, and nothing is restored over them"))
            .fix(format!("`cargo wopr up`; or, to give up what is there: {BEGIN_ANEW}"))
            .into())
    }

    /// Brings up one service and what it needs.
    async fn bring_part(&self, engine: &Docker, stack: &Stack, service: &str) -> anyhow::Result<()> {
        let part = stack.clone().only(&[service.to_owned()]);
        let plan = plan(&part, &observe(engine, &part).await?);
        apply(self.ui, engine, &self.http, &part, &plan).await
    }
}

/// Removes the database and what was to fill it.
async fn remove_database(vps: &Docker) -> anyhow::Result<()> {
    for name in [platform::VPS.postgres, platform::RESTORE, platform::REPLAY] {
        remove_container(vps, name, false).await?;
    }
    remove_volume(vps, platform::POSTGRES_VOLUME).await
}

/// What the database in that container answers to a query.
pub(crate) async fn answer(engine: &Docker, database: &str, query: &str) -> anyhow::Result<String> {
    let command = ["psql", "-h", "/run/postgresql", "-U", DATABASE, "-Atc", query];
    Ok(output_of(engine, database, &command).await?.trim().to_owned())
}

/// Waits until the database has read the log to where it was told, and is its own. One that gives up is started again by the
/// engine, which is how that is seen.
pub(crate) async fn until_promoted(engine: &Docker, database: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    let starts = async || {
        let seen = engine.inspect_container(database, None::<InspectContainerOptions>).await?;
        anyhow::Ok(seen.restart_count.unwrap_or_default())
    };
    let before = starts().await?;
    loop {
        let answer = answer(engine, database, "SELECT pg_is_in_recovery()").await;
        if answer.as_ref().is_ok_and(|answer| answer == "f") {
            return Ok(());
        }
        let still = match answer {
            Ok(_) => anyhow::anyhow!("it still reads its log"),
            Err(error) => error,
        };
        if starts().await? > before || since.elapsed() > REPLAY_LIMIT {
            return Err(unreadable(engine, database, still).await);
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Why a database does not read its log, as it says itself.
async fn unreadable(engine: &Docker, database: &str, error: anyhow::Error) -> anyhow::Error {
    let said = last_lines(engine, database, SAID_LINES).await;
    let Some((_, what, fix)) = IMPOSSIBLE.iter().find(|(words, ..)| said.contains(words)) else {
        return error.context(format!("{database} does not read its log; it said last:\n{said}"));
    };
    Failure::new(Exit::Check, *what).why(format!("{database} said last:\n{said}")).fix(*fix).into()
}

/// Makes the database put its log into the archive as often as it should. For that it looks at the clock only once it has
/// been woken since it began to serve: by a checkpoint, which otherwise may come minutes later.
pub(crate) async fn wake_archiving(engine: &Docker, database: &str) -> anyhow::Result<()> {
    answer(engine, database, "CHECKPOINT").await.map(drop)
}
