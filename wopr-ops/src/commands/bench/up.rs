//! `bench up`: how long the two machines take, and phases of it alone, in one run.
//!
//! The phases are what cannot be avoided: two machines from created to answering, the images' files loaded into engines
//! that have nothing, and cargo after a change of one line.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::Docker;
use serde::Serialize;

use crate::commands::{images::Programs, up};
use crate::{
    cli::{BenchArgs, UpArgs},
    engine,
    exec::remove,
    failure::{Exit, Failure},
    images::binaries::{self, Profile},
    paths::Paths,
    plan::{machines, platform::Ports, removal::Scope},
    ui::{Ui, seconds},
};

/// What was measured.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Times {
    /// Whole commands.
    up: Vec<Row>,
    /// Phases of them that cannot be avoided, each measured alone.
    alone: Vec<Row>,
}

/// One line of a table.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Row {
    /// What was done.
    what: &'static str,
    /// In milliseconds.
    took_ms: u64,
}

fn row(what: &'static str, took: Duration) -> Row {
    Row { what, took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
}

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &BenchArgs) -> anyhow::Result<()> {
    up::require_root()?;
    let ui = &ui.beside_json(args.json);
    let _lock = crate::commands::lock(paths)?;
    let engine = engine::ensure(ui, paths).await?;
    for volume in [machines::VPS_VOLUME, crate::plan::platform::POSTGRES_VOLUME] {
        if engine.inspect_volume(volume).await.is_ok() && !args.destroy {
            return Err(Failure::new(Exit::Failed, "there is a stack with data, and measuring begins from nothing")
                .why(format!("the volume {volume} exists"))
                .fix("`cargo wopr bench up --destroy` removes it first")
                .into());
        }
    }
    let built = binaries::compile(ui, paths, &crate::commands::images::all_sources(), Profile::Dev).await?;
    let artifacts = built.into_iter().map(|(name, built)| (name.to_owned(), built.executable)).collect();
    let programs = Programs::Compiled(&artifacts);
    let bench = Bench { ui, paths, engine: &engine, ports: args.ports };
    bench.nothing().await?;

    // Once unmeasured: packages are downloaded and images built and saved, which later runs find.
    bench.up(programs).await?;
    bench.nothing().await?;
    let cold = bench.timed(bench.up(programs)).await?;
    let idle = bench.timed(bench.up(programs)).await?;
    crate::commands::stop::stop_all(ui, paths).await?;
    let warm = bench.timed(bench.up(programs)).await?;
    let restarted = bench.timed(async {
        let (site, name) = crate::exec::sites::find(paths, engine.clone(), "platform-api").await?;
        crate::exec::apply::remove_container(&site.engine, &name, true).await?;
        bench.up(programs).await
    });
    let restarted = restarted.await?;
    let (compiled, changed) = bench.one_line_of_the_api(programs).await?;
    let down = bench.timed(bench.nothing()).await?;

    let phases = bench.phases(programs).await?;
    bench.nothing().await?;
    let times = Times {
        up: vec![
            row("from nothing but images", cold),
            row("after `stop`", warm),
            row("the API's container anew", restarted),
            row("one line of the API changed", changed),
            row("nothing to do", idle),
            row("`down`, with all data", down),
        ],
        alone: vec![
            row("the engines of both machines answer", phases.boot),
            row("all images are loaded", phases.load),
            row("cargo after that one line", compiled),
        ],
    };
    if args.json {
        return ui.json(&times);
    }
    for (heading, rows) in [("UP", &times.up), ("ALONE", &times.alone)] {
        let cell = |row: &Row| vec![row.what.to_owned(), seconds(Duration::from_millis(row.took_ms))];
        ui.line("");
        ui.table(&[heading, "TOOK"], &rows.iter().map(cell).collect::<Vec<_>>());
    }
    Ok(())
}

/// A file of the checkout with a line more, until this is dropped.
struct OneLineMore {
    file: PathBuf,
    before: Vec<u8>,
}

impl OneLineMore {
    fn in_file(file: PathBuf) -> anyhow::Result<Self> {
        let before = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        // Every line number after it changes, and with them the program.
        let with = [b"// One line more.\n".as_slice(), &before].concat();
        let this = Self { file, before };
        fs::write(&this.file, with).with_context(|| format!("{} cannot be written", this.file.display()))?;
        Ok(this)
    }

    fn take_back(&self) -> anyhow::Result<()> {
        fs::write(&self.file, &self.before).with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

impl Drop for OneLineMore {
    fn drop(&mut self) {
        // Whoever ends in good order has taken it back and been told; this is for an interruption.
        let _told_by_git = self.take_back();
    }
}

struct Bench<'a> {
    ui: &'a Ui,
    paths: &'a Paths,
    engine: &'a Docker,
    ports: Ports,
}

/// Phases that cannot be avoided, each measured alone.
struct Phases {
    boot: Duration,
    load: Duration,
}

impl Bench<'_> {
    async fn timed(&self, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Duration> {
        let since = Instant::now();
        work.await.map(|()| since.elapsed())
    }

    fn args(&self) -> UpArgs {
        UpArgs {
            flat: false,
            dry_run: false,
            json: false,
            bundle: None,
            no_prove: true,
            profile: Profile::Dev,
            only: Vec::new(),
            ports: self.ports,
        }
    }

    async fn up(&self, programs: Programs<'_>) -> anyhow::Result<()> {
        let args = self.args();
        let wanted = up::wanted_images(self.paths, &args)?;
        let images =
            crate::commands::images::ensure(self.ui, self.paths, self.engine, programs, |name| wanted.contains(&name))
                .await?;
        up::bring(self.ui, self.paths, self.engine, &images, &args).await
    }

    /// Containers, networks and volumes go; images and secrets stay.
    async fn nothing(&self) -> anyhow::Result<()> {
        remove::containers(self.engine, Scope::Stack, false).await?;
        remove::networks(self.engine, Scope::Stack).await?;
        remove::volumes(self.engine, Scope::Stack).await?;
        Ok(())
    }

    /// How long cargo takes after a change of one line, and how long until what is up has it.
    async fn one_line_of_the_api(&self, programs: Programs<'_>) -> anyhow::Result<(Duration, Duration)> {
        let before = self.api_image(programs).await?;
        let line = OneLineMore::in_file(self.paths.workspace()?.join("wopr-api/src/lib.rs"))?;
        let since = Instant::now();
        let built =
            binaries::compile(self.ui, self.paths, &crate::commands::images::all_sources(), Profile::Dev).await?;
        let compiled = since.elapsed();
        let changed = built.into_iter().map(|(name, built)| (name.to_owned(), built.executable)).collect();
        self.up(Programs::Compiled(&changed)).await?;
        let took = since.elapsed();
        anyhow::ensure!(self.api_image(Programs::Compiled(&changed)).await? != before, "the line changed no image");
        line.take_back()?;
        Ok((compiled, took))
    }

    /// The image of the API, by content.
    async fn api_image(&self, programs: Programs<'_>) -> anyhow::Result<String> {
        let images =
            crate::commands::images::ensure(self.ui, self.paths, self.engine, programs, |name| name == "api").await?;
        images.get("api").map(|image| image.reference.clone()).context("there is no image api")
    }

    async fn phases(&self, programs: Programs<'_>) -> anyhow::Result<Phases> {
        let args = self.args();
        let wanted = up::wanted_images(self.paths, &args)?;
        let images =
            crate::commands::images::ensure(self.ui, self.paths, self.engine, programs, |name| wanted.contains(&name))
                .await?;
        let work = up::Work::new(self.ui, self.paths, self.engine, &images, &args).await?;
        let boot = self.timed(async { work.machines().await.map(drop) }).await?;
        let load = self.timed(work.load()).await?;
        Ok(Phases { boot, load })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_that_of_the_times() {
        crate::runbook::assert_schema("bench-up", &schemars::schema_for!(Times));
    }

    #[test]
    fn a_line_more_is_gone_afterwards() {
        let file = std::env::temp_dir().join(format!("wopr-line-{}", std::process::id()));
        fs::write(&file, "fn main() {}\n").unwrap();
        let line = OneLineMore::in_file(file.clone()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
        drop(line);
        assert_eq!(fs::read_to_string(&file).unwrap(), "fn main() {}\n");
        fs::remove_file(file).unwrap();
    }
}
