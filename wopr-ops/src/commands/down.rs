//! `down`: nothing of ours stays in the engine.

use std::fs;

use anyhow::Context;

use crate::{cli::DownArgs, engine, exec::remove, images, paths::Paths, plan::removal::Scope, ui::Ui};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &DownArgs) -> anyhow::Result<()> {
    if args.dry_run {
        return show(ui, paths, args.volumes).await;
    }
    let _lock = super::lock(paths)?;
    let engine = engine::require().await?;
    report(ui, "containers", &remove::containers(&engine, Scope::Stack, !args.volumes).await?);
    report(ui, "networks", &remove::networks(&engine, Scope::Stack).await?);
    if args.volumes {
        report(ui, "volumes", &remove::data(&engine, &paths.machines()).await?);
        report(ui, "images", &images::remove_all(&engine).await?);
        fs::remove_dir_all(&paths.data).with_context(|| format!("{} could not be removed", paths.data.display()))?;
        ui.note(format!("removed {}", paths.data.display()));
    }
    Ok(())
}

/// Says what would be removed from this machine's engine; what is inside a machine goes with it.
async fn show(ui: &Ui, paths: &Paths, volumes: bool) -> anyhow::Result<()> {
    let engine = engine::require().await?;
    let would = |what: &str, names: &[String]| match names {
        [] => ui.note(format!("no {what} of ours")),
        names => ui.note(format!("would remove {what}: {}", names.join(", "))),
    };
    let containers: Vec<String> = remove::containers_of(&engine, Scope::Stack).await?.into_keys().collect();
    would("containers", &containers);
    would("networks", &remove::networks_of(&engine, Scope::Stack).await?);
    if volumes {
        would("volumes", &remove::volumes_of(&engine, Scope::Stack).await?);
        would("images", &images::all(&engine).await?);
        ui.note(format!("would remove {}", paths.data.display()));
    }
    Ok(())
}

fn report(ui: &Ui, what: &str, names: &[String]) {
    match names {
        [] => ui.note(format!("no {what} of ours")),
        names => ui.note(format!("removed {what}: {}", names.join(", "))),
    }
}
