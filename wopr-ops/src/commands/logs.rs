//! `logs`: what a container writes.

use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;

use crate::{
    cli::LogsArgs,
    engine,
    exec::observe::{all_of_ours, name_of},
    failure::{Exit, Failure},
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, args: &LogsArgs) -> anyhow::Result<()> {
    let engine = engine::require().await?;
    let names: Vec<String> = all_of_ours(&engine).await?.iter().map(name_of).collect();
    let full = format!("wopr-{}", args.service);
    let Some(name) = names.iter().find(|name| **name == args.service || **name == full) else {
        return Err(Failure::new(Exit::Failed, format!("there is no container {} of ours", args.service))
            .why(if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) })
            .into());
    };
    let tail = args.tail.to_string();
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&tail).follow(args.follow).build();
    let mut chunks = engine.logs(name, Some(options));
    let mut rest = String::new();
    while let Some(chunk) = chunks.next().await {
        rest.push_str(&chunk?.to_string());
        while let Some((line, after)) = rest.split_once('\n') {
            ui.line(line.trim_end_matches('\r'));
            rest = after.to_owned();
        }
    }
    if !rest.is_empty() {
        ui.line(rest);
    }
    Ok(())
}
