//! The platform's machine after its loss, with what the object store has of it.

use std::{fs, io::ErrorKind, path::PathBuf, time::Instant};

use anyhow::Context;
use bollard::Docker;
use serde::Deserialize;

use super::{Work, prune};
use crate::{
    exec::{
        apply::{apply, remove_container},
        observe::{container, observe},
        ready::{logs_of, output_of},
        remove::volume as remove_volume,
        sites::{address, inside},
    },
    failure::{Exit, Failure},
    paths::private_directory,
    plan::{
        machines::{self, GPU, VPS},
        platform::{self, DATABASE, ELSEWHERE, Place},
        spec::{Stack, State},
        steps::plan,
    },
    seed,
};

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

impl Work<'_> {
    /// Refuses an empty platform beside a store with its backups, and half a recovery: whoever serves before everybody's data
    /// is back gives bots new volumes with nothing on them.
    pub(super) async fn refuse_loss(&self) -> anyhow::Result<()> {
        if self.mark().exists() {
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

    /// It is there while a recovery is under way.
    fn mark(&self) -> PathBuf {
        self.elsewhere().join("recovering")
    }

    fn set_mark(&self) -> anyhow::Result<()> {
        private_directory(&self.elsewhere())?;
        fs::write(self.mark(), "").with_context(|| format!("{} cannot be written", self.mark().display()))
    }

    /// The platform's machine, which was lost, with what the object store has of it. Answers with what `wopr-api recover`
    /// says it wants restored. Whoever has waited for that says so with [`Work::has_recovered`].
    pub(crate) async fn recover(&self) -> anyhow::Result<Recovery> {
        self.ui.heading("The machine");
        let mut since = Instant::now();
        let mut phase = |what: &str| {
            self.ui.done(what, since.elapsed());
            since = Instant::now();
        };
        if !self.has_volume().await {
            self.set_mark()?;
        }
        self.machines().await?;
        let (vps, host) = (inside(self.paths, VPS).await?, address(self.engine, VPS).await?);
        let files = platform::recovery_handovers(Place::Machine(host), |name| self.secrets.get(name))?;
        let stack = |is_restored| self.vps_from(host, &files, |inputs| platform::recovery(inputs, is_restored));
        let wanted = self.images_of(VPS, &vps, &stack(false)?).await?;
        self.prepare(VPS, &stack(false)?, &files)?;
        let is_restored = self.is_restored(&vps, &stack(false)?).await?;
        let stack = stack(is_restored)?;
        self.set_mark()?;
        phase("the machine runs and has its images");

        for (last, what) in [
            (platform::RESTORE, "the database has every row of the newest set"),
            (platform::RECOVER, "it knows what the store has of every bot"),
            (platform::VPS.api, "the API serves"),
        ] {
            self.ui.heading(last);
            self.bring_part(&vps, &stack, last).await?;
            phase(what);
        }
        let said = logs_of(&vps, platform::RECOVER).await?;
        let line = said.lines().rev().find(|line| line.starts_with('{')).context("`recover` said nothing")?;
        let recovery = serde_json::from_str(line).with_context(|| format!("`recover` said {line}"))?;

        let (stack, _) = self.vps(host)?;
        let (gpu, (gpu_stack, gpu_files)) =
            (inside(self.paths, GPU).await?, self.gpu(address(self.engine, GPU).await?)?);
        let plan = plan(&stack, &observe(&vps, &stack).await?);
        let rest = apply(self.ui, &vps, &self.http, &stack, &plan);
        tokio::try_join!(rest, self.fill(GPU, &gpu, gpu_stack, &gpu_files))?;
        prune(&vps, &wanted).await?;
        seed::gpu(self.ui, &self.http, self.args.ports.api_port, self.secrets.get("FLEET_API_TOKEN_ADMIN")?).await?;
        phase("the rest runs");
        Ok(recovery)
    }

    /// Everybody has what could be had: nothing is recovered again.
    pub(crate) async fn has_recovered(&self) -> anyhow::Result<()> {
        let vps = inside(self.paths, VPS).await?;
        for name in [platform::RECOVER, platform::RESTORE] {
            remove_container(&vps, name, false).await?;
        }
        match fs::remove_file(self.mark()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", self.mark().display()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the newest set is in the database. One that nobody has begun to fill has to be empty.
    async fn is_restored(&self, vps: &Docker, stack: &Stack) -> anyhow::Result<bool> {
        let database = platform::VPS.postgres;
        match container(vps, platform::RESTORE).await?.map(|restore| restore.state) {
            Some(State::Exited(0)) => return Ok(true),
            Some(_) => {
                // Half a database is none. It goes before what tells that it is half.
                remove_container(vps, database, false).await?;
                remove_volume(vps, platform::POSTGRES_VOLUME).await?;
                remove_container(vps, platform::RESTORE, false).await?;
                return Ok(false);
            }
            None => {}
        }
        self.bring_part(vps, stack, database).await?;
        let query = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
        let tables =
            output_of(vps, database, &["psql", "-h", "/run/postgresql", "-U", DATABASE, "-Atc", query]).await?;
        if tables.trim() == "0" {
            return Ok(false);
        }
        // All that was left to do was to say that all is done.
        if self.mark().exists() {
            return Ok(true);
        }
        Err(Failure::new(Exit::Environment, "there is nothing to recover")
            .why(format!("{database} has {} tables, and nothing is restored over them", tables.trim()))
            .fix(format!(
                "`cargo wopr up`; or, to give up what is there: `docker rm -f {VPS}` and `docker volume rm {}` first",
                machines::VPS_VOLUME
            ))
            .into())
    }

    /// Brings up one service and what it needs.
    async fn bring_part(&self, engine: &Docker, stack: &Stack, service: &str) -> anyhow::Result<()> {
        let part = stack.clone().only(&[service.to_owned()]);
        let plan = plan(&part, &observe(engine, &part).await?);
        apply(self.ui, engine, &self.http, &part, &plan).await
    }
}
