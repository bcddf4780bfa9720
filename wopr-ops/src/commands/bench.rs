//! `bench up`: how long the two machines take, and two phases of it alone, in one run.
//!
//! The phases are what cannot be avoided: two machines from created to answering, and the images' files loaded into
//! engines that have nothing.

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

    let phases = bench.phases(programs).await?;
    bench.nothing().await?;
    rows.push(Row { what: "from nothing but images", took: cold });
    rows.push(Row { what: "after `stop`", took: warm });
    rows.push(Row { what: "the API's container anew", took: restarted });
    rows.push(Row { what: "nothing to do", took: idle });
    rows.push(Row { what: "`down`, with all data", took: down });
    ui.heading("Times");
    let cells: Vec<Vec<String>> = rows.iter().map(|row| vec![row.what.to_owned(), seconds(row.took)]).collect();
    ui.table(&["UP", "TOOK"], &cells);
    ui.note(format!("alone: the engines of both machines answer after {}", seconds(phases.boot)));
    ui.note(format!("alone: all images are loaded after {}", seconds(phases.load)));
    Ok(())
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

    async fn phases(&self, programs: Programs<'_>) -> anyhow::Result<Phases> {
        let args = self.args();
        let wanted = up::wanted_images(self.paths, &args)?;
        let images =
            super::images::ensure(self.ui, self.paths, self.engine, programs, |name| wanted.contains(&name)).await?;
        let work = up::Work::new(self.ui, self.paths, self.engine, &images, &args).await?;
        let boot = self.timed(async { work.machines().await.map(drop) }).await?;
        let load = self.timed(work.load()).await?;
        Ok(Phases { boot, load })
    }
}
