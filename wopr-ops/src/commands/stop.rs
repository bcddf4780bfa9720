//! `stop`: containers end, data and containers stay.

use anyhow::Context;
use bollard::{models::ContainerSummaryStateEnum, query_parameters::StopContainerOptionsBuilder};
use futures_util::future::try_join_all;

use crate::{
    engine,
    exec::{
        apply::STOP_SECONDS,
        observe::{all_of_ours, name_of},
    },
    plan::flat,
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui) -> anyhow::Result<()> {
    let engine = engine::require().await?;
    let ours = all_of_ours(&engine).await?;
    let running: Vec<String> =
        ours.iter().filter(|summary| summary.state == Some(ContainerSummaryStateEnum::RUNNING)).map(name_of).collect();
    if running.is_empty() {
        ui.note("nothing of ours runs");
        return Ok(());
    }
    // The API first, so that it takes no stopped bot for a lost one; the database last, so that the others end cleanly.
    let rank = |name: &str| match name {
        flat::API => 0,
        flat::POSTGRES => 2,
        _ => 1,
    };
    for wave in 0..=2 {
        let names: Vec<&String> = running.iter().filter(|name| rank(name) == wave).collect();
        let stop = |name: String| {
            let engine = &engine;
            async move {
                let task = ui.start(format!("stopping {name}"));
                let options = StopContainerOptionsBuilder::default().t(STOP_SECONDS).build();
                let stopped = engine.stop_container(&name, Some(options)).await;
                task.ends(stopped.with_context(|| format!("{name} could not be stopped")), |()| "stopped".to_owned())
            }
        };
        try_join_all(names.into_iter().cloned().map(stop)).await?;
    }
    Ok(())
}
