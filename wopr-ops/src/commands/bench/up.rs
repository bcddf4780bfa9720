//! `bench up`: how long the two machines take, and phases of it alone, in one run.
//!
//! Beside a command stands its bound: the sum of those phases of it that are physical, each measured alone on the same
//! machine. These are two machines from created, or stopped, to answering; the images' bytes loaded into engines that have
//! nothing; the slowest of the servers that need no other, from created to ready; and cargo. What the command itself adds to
//! them — what it asks the engines, what services wait for each other — is in no bound.

use std::{
    collections::HashMap,
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
    alone: Vec<Phase>,
}

/// A command.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Row {
    /// What was done.
    what: &'static str,
    /// In milliseconds.
    took_ms: u64,
    /// What of it cannot be avoided, in milliseconds; `null` if nothing is slow by nature.
    bound_ms: Option<u64>,
    /// The phases that make up the bound.
    bound_of: Vec<String>,
}

/// Something that cannot be avoided, measured alone.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Phase {
    /// What was done.
    what: String,
    /// In milliseconds.
    took_ms: u64,
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn phase(what: impl Into<String>, took: Duration) -> Phase {
    Phase { what: what.into(), took_ms: milliseconds(took) }
}

fn row(what: &'static str, took: Duration, bound: &[&Phase]) -> Row {
    let sum = bound.iter().map(|phase| phase.took_ms).sum();
    Row {
        what,
        took_ms: milliseconds(took),
        bound_ms: (!bound.is_empty()).then_some(sum),
        bound_of: bound.iter().map(|phase| phase.what.clone()).collect(),
    }
}

/// The slowest server.
fn slowest(servers: Vec<(&'static str, Duration)>, how: &str) -> anyhow::Result<Phase> {
    let slowest = servers.into_iter().max_by_key(|(_, took)| *took).context("there is no server")?;
    Ok(phase(format!("the slowest server alone, {} {how}", slowest.0), slowest.1))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
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
    let bench = Bench { ui, paths, engine: &engine, ports: args.ports };
    let artifacts = bench.compile().await?;
    let programs = Programs::Compiled(&artifacts);
    bench.nothing().await?;
    let cold = bench.timed(bench.up(programs)).await?;
    let mut idle = Vec::new();
    for _ in 0..IDLE_RUNS {
        idle.push(bench.timed(bench.up(programs)).await?);
    }
    let fresh = bench.timed(async { bench.compile().await.map(drop) }).await?;
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
    let compiled = phase("cargo after one line of the API", compiled);
    let times = Times {
        up: vec![
            row("from nothing but images", cold, &[&phases.boot, &phases.load, &phases.slowest_new]),
            row("after `stop`", warm, &[&phases.boot_again, &phases.slowest_again]),
            row("the API's container anew", restarted, &[]),
            row("one line of the API changed", changed, &[&compiled]),
            row("nothing to do, nothing compiled", median(idle), &[]),
            row("`down`, with all data", down, &[]),
        ],
        alone: [phases.boot, phases.boot_again, phases.load, phases.slowest_new, phases.slowest_again, compiled]
            .into_iter()
            .chain([phase("cargo, nothing changed", fresh)])
            .collect(),
    };
    if args.json {
        return ui.json(&times);
    }
    let shown = |ms: u64| seconds(Duration::from_millis(ms));
    let cells = |row: &Row| {
        let bound = row.bound_ms.map(shown).unwrap_or_default();
        vec![row.what.to_owned(), shown(row.took_ms), bound, row.bound_of.join(" + ")]
    };
    ui.line("");
    ui.table(&["UP", "TOOK", "BOUND", "OF"], &times.up.iter().map(cells).collect::<Vec<_>>());
    ui.line("");
    let cells = |phase: &Phase| vec![phase.what.clone(), shown(phase.took_ms)];
    ui.table(&["ALONE", "TOOK"], &times.alone.iter().map(cells).collect::<Vec<_>>());
    Ok(())
}

/// How often nothing is to do; the median is told.
const IDLE_RUNS: usize = 5;

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
    /// Both machines, from nothing to answering.
    boot: Phase,
    /// The same after they were stopped.
    boot_again: Phase,
    load: Phase,
    slowest_new: Phase,
    slowest_again: Phase,
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
            disk: None,
            no_prove: true,
            profile: Profile::Dev,
            only: Vec::new(),
            ports: self.ports,
        }
    }

    /// The programs by name.
    async fn compile(&self) -> anyhow::Result<HashMap<String, PathBuf>> {
        let sources = crate::commands::images::all_sources();
        let built = binaries::compile(self.ui, self.paths, &sources, Profile::Dev).await?;
        Ok(built.into_iter().map(|(name, built)| (name.to_owned(), built.executable)).collect())
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
        remove::data(self.engine, &self.paths.machines()).await?;
        Ok(())
    }

    /// How long cargo takes after a change of one line, and how long until what is up has it.
    async fn one_line_of_the_api(&self, programs: Programs<'_>) -> anyhow::Result<(Duration, Duration)> {
        let before = self.api_image(programs).await?;
        let line = OneLineMore::in_file(self.paths.workspace()?.join("wopr-api/src/lib.rs"))?;
        let since = Instant::now();
        let changed = self.compile().await?;
        let compiled = since.elapsed();
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
        let slowest_new = slowest(work.each_alone().await?, "without data")?;
        let slowest_again = slowest(work.each_alone().await?, "with its data")?;
        crate::commands::stop::stop_all(self.ui, self.paths).await?;
        let boot_again = self.timed(async { work.machines().await.map(drop) }).await?;
        Ok(Phases {
            boot: phase("both machines made", boot),
            boot_again: phase("both machines started", boot_again),
            load: phase("all images loaded", load),
            slowest_new,
            slowest_again,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_that_of_the_times() {
        let boot = phase("both machines made", Duration::from_millis(900));
        let up = vec![row("cold", Duration::from_secs(3), &[&boot, &boot]), row("down", Duration::from_secs(1), &[])];
        let times = Times { up, alone: vec![boot] };
        crate::runbook::assert_schema_fits("bench-up", &schemars::schema_for!(Times), &times);
    }

    #[test]
    fn a_bound_is_the_sum_of_its_phases() {
        let seconds = Duration::from_secs;
        let (one, two) =
            (phase("one", seconds(1)), slowest(vec![("a", seconds(1)), ("b", seconds(2))], "new").unwrap());
        let bound = row("up", seconds(4), &[&one, &two]);
        assert_eq!((bound.took_ms, bound.bound_ms), (4000, Some(3000)));
        assert_eq!(bound.bound_of, ["one", "the slowest server alone, b new"]);
        assert_eq!(row("down", seconds(4), &[]).bound_ms, None);
        assert_eq!(median([3, 1, 2, 9, 2].map(seconds).to_vec()), seconds(2));
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
