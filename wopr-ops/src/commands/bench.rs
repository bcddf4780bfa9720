//! `bench up`: how long the two machines take, beside what physics asks for, in one run.
//!
//! The bound of a phase is measured in the same run and alone: two machines from created to answering; the images' files
//! loaded into engines that have nothing; the slowest service from started to ready. What `up` takes longer than their
//! sum is its own.

use std::time::{Duration, Instant};

use bollard::Docker;

use super::{images::Programs, up};
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

/// One line of the table.
struct Row {
    what: &'static str,
    took: Duration,
    bound: Option<Duration>,
}

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &BenchArgs) -> anyhow::Result<()> {
    up::require_root()?;
    let _lock = super::lock(paths)?;
    let engine = engine::ensure(ui, paths).await?;
    for volume in [machines::VPS_VOLUME, crate::plan::platform::POSTGRES_VOLUME] {
        if engine.inspect_volume(volume).await.is_ok() && !args.destroy {
            return Err(Failure::new(Exit::Failed, "there is a stack with data, and measuring begins from nothing")
                .why(format!("the volume {volume} exists"))
                .fix("`cargo wopr bench up --destroy` removes it first")
                .into());
        }
    }
    let built = binaries::compile(ui, paths, &super::images::all_sources(), Profile::Dev).await?;
    let artifacts = built.into_iter().map(|(name, built)| (name.to_owned(), built.executable)).collect();
    let programs = Programs::Compiled(&artifacts);
    let bench = Bench { ui, paths, engine: &engine, ports: args.ports };
    bench.nothing().await?;
    let mut rows = Vec::new();

    // Once unmeasured: packages are downloaded and images built and saved, which later runs find.
    bench.up(programs).await?;
    bench.nothing().await?;
    let cold = bench.timed(bench.up(programs)).await?;
    let idle = bench.timed(bench.up(programs)).await?;
    super::stop::stop_all(ui, paths).await?;
    let warm = bench.timed(bench.up(programs)).await?;
    let restarted = bench.timed(async {
        let (site, name) = crate::exec::sites::find(paths, engine.clone(), "platform-api").await?;
        crate::exec::apply::remove_container(&site.engine, &name, true).await?;
        bench.up(programs).await
    });
    let restarted = restarted.await?;
    let down = bench.timed(bench.nothing()).await?;

    let bound = bench.bound(programs).await?;
    bench.nothing().await?;
    rows.push(Row { what: "from nothing but images", took: cold, bound: Some(bound.boot + bound.load + bound.ready) });
    rows.push(Row { what: "after `stop`", took: warm, bound: Some(bound.boot + bound.ready) });
    rows.push(Row { what: "the API's container anew", took: restarted, bound: None });
    rows.push(Row { what: "nothing to do", took: idle, bound: None });
    rows.push(Row { what: "`down`, with all data", took: down, bound: None });
    ui.heading("Times");
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let ratio = row.bound.map(|bound| format!("{:.2} ×", row.took.div_duration_f64(bound)));
            let bound = row.bound.map(seconds).unwrap_or_default();
            vec![row.what.to_owned(), seconds(row.took), bound, ratio.unwrap_or_default()]
        })
        .collect();
    ui.table(&["UP", "TOOK", "BOUND", "RATIO"], &cells);
    ui.note(format!(
        "the bound: engines of both machines answer {}, images load {}, services become ready {}",
        seconds(bound.boot),
        seconds(bound.load),
        seconds(bound.ready)
    ));
    Ok(())
}

struct Bench<'a> {
    ui: &'a Ui,
    paths: &'a Paths,
    engine: &'a Docker,
    ports: Ports,
}

/// Phases that cannot be avoided, each measured alone.
struct Bound {
    boot: Duration,
    load: Duration,
    ready: Duration,
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
            super::images::ensure(self.ui, self.paths, self.engine, programs, |name| wanted.contains(&name)).await?;
        up::bring(self.ui, self.paths, self.engine, &images, &args).await
    }

    /// Containers, networks and volumes go; images and secrets stay.
    async fn nothing(&self) -> anyhow::Result<()> {
        remove::containers(self.engine, Scope::Stack, false).await?;
        remove::networks(self.engine, Scope::Stack).await?;
        remove::volumes(self.engine, Scope::Stack).await?;
        Ok(())
    }

    async fn bound(&self, programs: Programs<'_>) -> anyhow::Result<Bound> {
        let args = self.args();
        let wanted = up::wanted_images(self.paths, &args)?;
        let images =
            super::images::ensure(self.ui, self.paths, self.engine, programs, |name| wanted.contains(&name)).await?;
        let work = up::Work::new(self.ui, self.paths, self.engine, &images, &args).await?;
        let boot = self.timed(async { work.machines().await.map(drop) }).await?;
        let load = self.timed(work.load()).await?;
        let ready = self.timed(async { work.two_machines().await.map(drop) }).await?;
        Ok(Bound { boot, load, ready })
    }
}
