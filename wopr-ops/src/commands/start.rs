//! `start`, `restart`, `seed`: a stack that was up before, without building anything.

use crate::{
    cli::{RestartArgs, SeedArgs, StartArgs, UpArgs},
    engine,
    exec::{apply::remove_container, sites::find},
    images::{self, binaries::Profile},
    paths::Paths,
    secrets::Secrets,
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &StartArgs) -> anyhow::Result<()> {
    super::up::require_root()?;
    let ui = &ui.beside_json(args.json);
    let _lock = super::lock(paths)?;
    bring(ui, paths, args).await
}

/// Stops and starts everything; or takes one service's container away and creates it anew, with all it is given.
pub(crate) async fn restart(ui: &Ui, paths: &Paths, args: &RestartArgs) -> anyhow::Result<()> {
    super::up::require_root()?;
    let start = StartArgs { flat: args.flat, dry_run: false, json: false, ports: args.ports };
    let Some(service) = &args.service else {
        let _lock = super::lock(paths)?;
        super::stop::stop_all(ui, paths).await?;
        return bring(ui, paths, &start).await;
    };
    let _lock = super::lock(paths)?;
    let (site, name) = find(paths, engine::require().await?, service).await?;
    let task = ui.start(format!("removing {name}"));
    task.ends(remove_container(&site.engine, &name, true).await, |()| String::new())?;
    bring(ui, paths, &start).await
}

/// Starts what does not run.
pub(crate) async fn bring(ui: &Ui, paths: &Paths, args: &StartArgs) -> anyhow::Result<()> {
    let engine = engine::ensure(ui, paths).await?;
    let args = UpArgs {
        flat: args.flat,
        dry_run: args.dry_run,
        json: args.json,
        bundle: None,
        disk: None,
        no_prove: true,
        profile: Profile::Dev,
        only: Vec::new(),
        ports: args.ports,
    };
    let names = super::up::wanted_images(paths, &args)?;
    let images = images::existing(paths, &engine, &names).await?;
    super::up::bring(ui, paths, &engine, &images, &args).await
}

pub(crate) async fn seed(ui: &Ui, paths: &Paths, args: &SeedArgs) -> anyhow::Result<()> {
    let secrets = Secrets::existing(&paths.data.join("secrets"))?;
    let http = super::http_client()?;
    crate::seed::gpu(ui, &http, args.api_port, secrets.get("FLEET_API_TOKEN_ADMIN")?, false).await
}
