//! `status`: what runs.

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use serde::Serialize;

use crate::{
    cli::StatusArgs,
    engine,
    exec::observe::{all_of_ours, is_service, name_of},
    failure::{Exit, Failure},
    plan::flat,
    ui::Ui,
};

/// One container, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `service` or `bot`.
    kind: &'static str,
    /// `running`, `exited`, …, or `missing`.
    state: String,
    /// The engine's sentence: since when, how healthy.
    status: String,
    image: String,
    /// Ports on this machine.
    ports: Vec<u16>,
}

pub(crate) async fn run(ui: &Ui, args: &StatusArgs) -> anyhow::Result<()> {
    let engine = engine::require().await?;
    let ours = all_of_ours(&engine).await?;
    let mut rows: Vec<Row> = ours.iter().map(row).collect();
    for name in flat::SERVICES {
        if !rows.iter().any(|row| row.name == name) {
            rows.push(missing(name));
        }
    }
    let place = |row: &Row| flat::SERVICES.iter().position(|name| *name == row.name).unwrap_or(usize::MAX);
    rows.sort_by(|a, b| (place(a), &a.name).cmp(&(place(b), &b.name)));
    if args.json {
        ui.line(serde_json::to_string_pretty(&rows)?);
    } else {
        let cells = rows.iter().map(|row| {
            let ports: Vec<String> = row.ports.iter().map(u16::to_string).collect();
            vec![
                row.name.clone(),
                row.kind.to_owned(),
                row.state.clone(),
                row.status.clone(),
                ports.join(","),
                row.image.clone(),
            ]
        });
        ui.table(&["NAME", "KIND", "STATE", "STATUS", "PORTS", "IMAGE"], &cells.collect::<Vec<_>>());
    }
    let down: Vec<&str> =
        rows.iter().filter(|row| row.kind == "service" && !is_well(row)).map(|row| row.name.as_str()).collect();
    if down.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::NotReady, format!("not running: {}", down.join(", ")))
        .fix("`cargo wopr up` starts what is missing")
        .into())
}

/// A server runs; the migration has ended with 0.
fn is_well(row: &Row) -> bool {
    if row.name == flat::MIGRATE {
        return row.status.starts_with("Exited (0)");
    }
    row.state == "running"
}

fn row(summary: &ContainerSummary) -> Row {
    let state = summary.state.unwrap_or(ContainerSummaryStateEnum::EMPTY);
    let mut ports: Vec<u16> = summary.ports.iter().flatten().filter_map(|port| port.public_port).collect();
    ports.sort_unstable();
    ports.dedup();
    Row {
        name: name_of(summary),
        kind: if is_service(summary) { "service" } else { "bot" },
        state: state.to_string(),
        status: summary.status.clone().unwrap_or_default(),
        image: summary.image.clone().unwrap_or_default(),
        ports,
    }
}

fn missing(name: &str) -> Row {
    Row {
        name: name.to_owned(),
        kind: "service",
        state: "missing".to_owned(),
        status: String::new(),
        image: String::new(),
        ports: Vec::new(),
    }
}
