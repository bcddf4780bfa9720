//! `status`: what runs.

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use serde::Serialize;

use crate::{
    cli::StatusArgs,
    engine,
    exec::{
        observe::{all_of_ours, is_service, name_of},
        sites::sites,
    },
    failure::{Exit, Failure},
    images::recipes::SPEECH,
    paths::Paths,
    plan::{
        inference,
        machines::{GPU, MACHINES, VPS},
        platform,
    },
    ui::Ui,
};

/// One container, as `--json` shows it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Row {
    /// The machine it runs on; `null` for this one.
    machine: Option<&'static str>,
    name: String,
    /// `machine`, `service` or `bot`.
    kind: &'static str,
    /// `running`, `exited`, …, or `missing`.
    state: String,
    /// The engine's sentence: since when, how healthy.
    status: String,
    image: String,
    /// Ports on its engine's machine.
    ports: Vec<u16>,
    /// What production has in its place; `null` if that is this.
    stands_in_for: Option<&'static str>,
}

/// What production has in a service's place. With a graphics card, speech is production's own.
fn stands_in_for(name: &str, image: &str) -> Option<&'static str> {
    use platform::{FLAT, VPS};
    match name {
        _ if [FLAT.stripe, VPS.stripe].contains(&name) => Some("Stripe"),
        _ if [FLAT.mail, VPS.mail].contains(&name) => Some("a provider of mail"),
        _ if name == VPS.ui => Some("the dashboard"),
        _ if name == VPS.objects => Some("an S3 store"),
        _ if name == inference::CHATTERBOX && (image.is_empty() || image.starts_with(SPEECH.repository)) => {
            Some("Chatterbox")
        }
        _ => None,
    }
}

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &StatusArgs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for site in sites(paths, engine::require().await?).await? {
        rows.extend(all_of_ours(&site.engine).await?.iter().map(|summary| row(site.machine, summary)));
    }
    let expected = expected(&rows);
    for (machine, name) in &expected {
        if !rows.iter().any(|row| row.name == *name) {
            rows.push(missing(*machine, name));
        }
    }
    let place = |row: &Row| expected.iter().position(|(_, name)| *name == row.name).unwrap_or(usize::MAX);
    rows.sort_by(|a, b| (place(a), &a.name).cmp(&(place(b), &b.name)));
    if args.json {
        ui.json(&rows)?;
    } else {
        let cells = rows.iter().map(|row| {
            let ports: Vec<String> = row.ports.iter().map(u16::to_string).collect();
            vec![
                row.name.clone(),
                row.machine.unwrap_or("-").to_owned(),
                row.kind.to_owned(),
                row.state.clone(),
                row.status.clone(),
                ports.join(","),
                row.stands_in_for.unwrap_or("-").to_owned(),
                row.image.clone(),
            ]
        });
        let header = ["NAME", "MACHINE", "KIND", "STATE", "STATUS", "PORTS", "STANDS IN FOR", "IMAGE"];
        ui.table(&header, &cells.collect::<Vec<_>>());
    }
    let down: Vec<&str> =
        rows.iter().filter(|row| row.kind != "bot" && !is_well(row)).map(|row| row.name.as_str()).collect();
    if down.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::NotReady, format!("not running: {}", down.join(", ")))
        .fix("`cargo wopr up` starts what is missing")
        .into())
}

/// What should be there, in the order it is shown in: the topology that something is there of, else the two machines.
fn expected(rows: &[Row]) -> Vec<(Option<&'static str>, &'static str)> {
    let names = |names: &platform::Names| [names.postgres, names.stripe, names.mail, names.migrate, names.api];
    let flat = names(&platform::FLAT);
    if rows.iter().any(|row| row.machine.is_none() && flat.contains(&row.name.as_str())) {
        return flat.map(|name| (None, name)).to_vec();
    }
    let of_vps =
        names(&platform::VPS).into_iter().chain([platform::VPS.ui, platform::VPS.objects, platform::VPS.caddy]);
    let of_gpu = [inference::LLAMA, inference::CHATTERBOX, inference::WHISPER, inference::EMBEDDINGS, inference::NODE];
    let machines = MACHINES.into_iter().map(|name| (None, name));
    machines.chain(of_vps.map(|name| (Some(VPS), name))).chain(of_gpu.map(|name| (Some(GPU), name))).collect()
}

/// A server runs; the migration has ended with 0.
fn is_well(row: &Row) -> bool {
    if [platform::FLAT.migrate, platform::VPS.migrate].contains(&row.name.as_str()) {
        return row.status.starts_with("Exited (0)");
    }
    row.state == "running"
}

fn row(machine: Option<&'static str>, summary: &ContainerSummary) -> Row {
    let state = summary.state.unwrap_or(ContainerSummaryStateEnum::EMPTY);
    let mut ports: Vec<u16> = summary.ports.iter().flatten().filter_map(|port| port.public_port).collect();
    ports.sort_unstable();
    ports.dedup();
    let (name, image) = (name_of(summary), summary.image.clone().unwrap_or_default());
    let kind = match () {
        () if MACHINES.contains(&name.as_str()) => "machine",
        () if is_service(summary) => "service",
        () => "bot",
    };
    Row {
        machine,
        stands_in_for: stands_in_for(&name, &image),
        name,
        kind,
        state: state.to_string(),
        status: summary.status.clone().unwrap_or_default(),
        image,
        ports,
    }
}

fn missing(machine: Option<&'static str>, name: &str) -> Row {
    Row {
        machine,
        name: name.to_owned(),
        kind: if MACHINES.contains(&name) { "machine" } else { "service" },
        state: "missing".to_owned(),
        status: String::new(),
        image: String::new(),
        ports: Vec::new(),
        stands_in_for: stands_in_for(name, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_real_thing_says_so() {
        let rows = expected(&[]).into_iter().map(|(machine, name)| missing(machine, name));
        let standing_in: Vec<String> =
            rows.filter_map(|row| Some(format!("{}: {}", row.name, row.stands_in_for?))).collect();
        assert_eq!(
            standing_in,
            [
                "wopr-vps-stripe: Stripe",
                "wopr-vps-mail: a provider of mail",
                "wopr-vps-platform-ui: the dashboard",
                "wopr-vps-objects: an S3 store",
                "wopr-gpu-chatterbox: Chatterbox",
            ]
        );
    }

    #[test]
    fn with_a_graphics_card_speech_is_the_real_thing() {
        let speech = |image| stands_in_for(inference::CHATTERBOX, image);
        assert_eq!(speech("wopr-speech:20d0f94876ce821e"), Some("Chatterbox"));
        assert_eq!(speech("travisvn/chatterbox-tts-api@sha256:0a"), None);
        assert_eq!(speech("sha256:0a"), None);
    }

    #[test]
    fn the_schema_is_that_of_the_rows() {
        let rows = [row(Some(VPS), &ContainerSummary::default()), missing(None, VPS)];
        crate::runbook::assert_schema_fits("status", &schemars::schema_for!(Vec<Row>), &rows);
    }
}
