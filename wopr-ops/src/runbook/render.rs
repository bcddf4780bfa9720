//! The runbook as a page.

use std::fmt::Write;

use super::{Exposure, Runbook};

/// Markdown.
pub(crate) fn markdown(runbook: &Runbook) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _written = write(runbook, &mut page);
    page
}

fn write(runbook: &Runbook, page: &mut String) -> std::fmt::Result {
    writeln!(page, "# Runbook of {}\n", runbook.meta.project)?;
    writeln!(page, "Written by `cargo wopr runbook render` from `runbook.toml`; a test keeps both equal.")?;
    writeln!(
        page,
        "`cargo wopr runbook check` looks at everything below that names a check; `cargo wopr runbook verify`"
    )?;
    writeln!(
        page,
        "brings each hazard about that says how, wants its check to turn red, and green once it is mended."
    )?;
    writeln!(page, "\nKept by {}.\n\n## Constraints\n", runbook.meta.owner)?;
    for (id, it) in &runbook.constraints {
        let guard = guard(it.check.as_ref(), it.manual.as_ref());
        writeln!(page, "- **{id}** ({}): {} {guard}", it.severity.name(), it.text)?;
    }
    writeln!(page, "\n## Services\n\n| Container | Where | Image | Purpose |\n|---|---|---|---|")?;
    for it in &runbook.services {
        let place = it.machine.shown();
        writeln!(page, "| `{}` | {place} | {} | {} |", it.id, it.image, it.purpose)?;
    }
    writeln!(page, "\n## Ports of this machine\n\nFlags of `cargo wopr up` move them.\n")?;
    writeln!(page, "| Port | Name | Answered by | Reached from |\n|---|---|---|---|")?;
    for it in &runbook.ports {
        let from = match it.exposure {
            Exposure::Loopback => "this machine alone",
        };
        writeln!(page, "| {} | {} | `{}` | {from} |", it.number, it.name.name(), it.service)?;
    }
    writeln!(
        page,
        "\n## Secrets\n\nNames and rules; values are in files of the data directory that only their owner reads.\n"
    )?;
    writeln!(page, "| Name | Purpose | Handed to | Made by `up` | Characters, at least |\n|---|---|---|---|---|")?;
    for it in &runbook.secrets {
        let services: Vec<String> = it.services.iter().map(|service| format!("`{service}`")).collect();
        let services = if services.is_empty() { "nobody".to_owned() } else { services.join(", ") };
        let made = if it.generated { "yes" } else { "from others" };
        writeln!(page, "| `{}` | {} | {services} | {made} | {} |", it.name, it.purpose, it.min_length)?;
    }
    writeln!(page, "\n## Hazards\n")?;
    for it in &runbook.gotchas {
        let places: Vec<&str> = it.applies_to.iter().map(|place| place.name()).collect();
        let guard = guard(it.check.as_ref(), it.manual.as_ref());
        write!(page, "- **{}** ({}): {} *Handled:* {} {guard}", it.id, places.join(", "), it.hazard, it.handling)?;
        if let (Some(breakage), Some(fix)) = (&it.broken, it.fix) {
            write!(page, " *Brought about:* {breakage}. *Mended by:* {fix}.")?;
        }
        writeln!(page)?;
    }
    writeln!(page, "\n## Checks\n\n| Check | Kind | Failure is | Seconds, at most | Guards |\n|---|---|---|---|---|")?;
    for it in &runbook.checks {
        let guards = gotchas_of(runbook, &it.id).join(", ");
        writeln!(page, "| `{}` | {} | {} | {} | {guards} |", it.id, it.probe.kind(), it.severity.name(), it.timeout_s)?;
    }
    writeln!(page, "\n## Before customers come\n")?;
    for it in &runbook.checklist {
        writeln!(page, "- [ ] {} {}", it.text, guard(it.check.as_ref(), it.manual.as_ref()))?;
    }
    Ok(())
}

fn guard(check: Option<&String>, manual: Option<&String>) -> String {
    match (check, manual) {
        (Some(check), _) => format!("*Check:* `{check}`."),
        (None, Some(reason)) => format!("*No check here:* {reason}"),
        (None, None) => String::new(),
    }
}

/// The hazards that a check guards against.
pub(crate) fn gotchas_of(runbook: &Runbook, check: &str) -> Vec<String> {
    let named = runbook.gotchas.iter().filter(|gotcha| gotcha.check.as_deref() == Some(check));
    named.map(|gotcha| gotcha.id.clone()).collect()
}
