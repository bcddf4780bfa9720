//! `logs`: what a container writes.

use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;

use crate::{cli::LogsArgs, engine, exec::sites::find, paths::Paths, ui::Ui};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &LogsArgs) -> anyhow::Result<()> {
    let (site, name) = find(paths, engine::require().await?, &args.service).await?;
    let tail = args.tail.to_string();
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&tail).follow(args.follow).build();
    let mut chunks = site.engine.logs(&name, Some(options));
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
