//! `drill offline`: the stack from a bundle alone, in a place where there is no network, no engine, no checkout and no compiler.
//!
//! The program of the bundle is told `up --bundle FILE` there; it starts an engine, loads the images, brings both machines up
//! and walks the happy path.

use std::{fs, path::Path, time::Instant};

use anyhow::Context;
use bollard::Docker;

use super::place::{self, PROGRAM, closed, in_scratch, text, told};
use crate::{
    cli::{OfflineArgs, PlaceArgs},
    commands::{
        bundle,
        images::{self, Programs, References},
        up::require_root,
    },
    engine,
    paths::Paths,
    ui::Ui,
};

/// The directory of the drill, below that of the stack.
const NAME: &str = "offline";

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &OfflineArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    if let Some(bundle) = &args.bundle {
        // An engine is installed here if need be: there, nothing can be.
        engine::ensure(ui, paths).await?;
        let bundle = fs::canonicalize(bundle).with_context(|| format!("{} cannot be read", bundle.display()))?;
        return in_scratch(paths, NAME, async |scratch| rehearse(ui, &bundle, scratch).await).await;
    }
    let engine = engine::ensure(ui, paths).await?;
    let images = images::ensure(ui, paths, &engine, Programs::Compile(args.profile), |_| true).await?;
    with_images(ui, paths, &engine, images).await
}

/// The drill with a bundle of these images.
pub(crate) async fn with_images(ui: &Ui, paths: &Paths, engine: &Docker, images: References) -> anyhow::Result<()> {
    require_root()?;
    in_scratch(paths, NAME, async |scratch| {
        let file = scratch.join("all.tar");
        bundle::pack(ui, paths, engine, images, &file).await?;
        rehearse(ui, &file, scratch).await
    })
    .await
}

async fn rehearse(ui: &Ui, file: &Path, scratch: &Path) -> anyhow::Result<()> {
    ui.heading("Where there is no network");
    let since = Instant::now();
    place::enter(ui, "offline-inside", file, scratch).await.context("the bundle alone does not bring the stack up")?;
    ui.done("the bundle alone brings the stack up, without any network", since.elapsed());
    Ok(())
}

/// The first process in there: does what an operator would.
pub(crate) async fn inside(ui: &Ui, args: &PlaceArgs) -> anyhow::Result<()> {
    place::shut(&args.scratch).await?;
    ui.note("no engine, no network, no compiler");

    let program = args.scratch.join(PROGRAM);
    told(&program, &["up", "--bundle", text(&args.bundle)?]).await?;
    // The engine made bridges and routes of its own: none of them leads out.
    closed()?;
    told(&program, &["status"]).await?;
    // The images are in the bundle and in the machines alone.
    told(&program, &["stop"]).await?;
    told(&program, &["start"]).await?;
    told(&program, &["status"]).await?;
    told(&program, &["down", "--volumes"]).await
}
