//! Disks of the machines' own: files of this machine with a file system, which a machine mounts when it starts.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use bollard::Docker;
use tokio::process::Command;

use super::ready::output_of;
use crate::{
    apt,
    engine::find_program,
    failure::{Exit, Failure},
    images::recipes::{MACHINE_DISK_FILE, MACHINE_PROGRAM},
    plan::{disk::There, machines::MACHINES, spec::Stack},
    ui::Ui,
};

/// The file that is a machine's disk, below the directory with one directory per machine.
pub(crate) fn file(machines: &Path, machine: &str) -> PathBuf {
    machines.join(machine).join(MACHINE_DISK_FILE)
}

/// The size of a machine's own disk, if it has one.
pub(crate) fn size_bytes(machines: &Path, machine: &str) -> anyhow::Result<Option<u64>> {
    let file = file(machines, machine);
    match fs::metadata(&file) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be looked at", file.display())),
    }
}

/// What there is of a machine of the stack.
pub(crate) async fn there(engine: &Docker, machines: &Path, stack: &Stack, machine: &str) -> anyhow::Result<There> {
    let service = stack.services.iter().find(|service| service.name == machine);
    let mut has_data = false;
    for volume in service.into_iter().flat_map(crate::plan::spec::Service::volumes) {
        has_data |= engine.inspect_volume(volume).await.is_ok();
    }
    Ok(There { disk_bytes: size_bytes(machines, machine)?, has_data })
}

/// Makes a machine's disk. It takes room on this machine as it is written to.
pub(crate) async fn make(ui: &Ui, file: &Path, bytes: u64) -> anyhow::Result<()> {
    const PROGRAM: &str = "mkfs.ext4";
    if find_program(PROGRAM).is_none() {
        apt::install(ui, &["e2fsprogs"]).await?;
    }
    let program = find_program(PROGRAM).with_context(|| format!("{PROGRAM} is not installed"))?;
    // Half a disk must not be taken for a whole one.
    let draft = file.with_extension("draft");
    let written = fs::File::create(&draft).and_then(|file| file.set_len(bytes));
    written.with_context(|| format!("{} cannot be written", draft.display()))?;
    // Nothing is kept back for root, who owns all of it; what need not be written now is not.
    let options = ["-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
    let output = Command::new(program).args(options).arg(&draft).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        return Err(Failure::new(Exit::Environment, "a machine's disk could not be made")
            .why(format!("{PROGRAM} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
            .into());
    }
    fs::rename(&draft, file).with_context(|| format!("{} cannot be written", file.display()))
}

/// Removes all disks; nothing may run on them.
pub(crate) fn remove_all(machines: &Path) -> anyhow::Result<()> {
    MACHINES.into_iter().try_for_each(|machine| remove(machines, machine))
}

/// Removes a machine's disk, if it has one.
pub(crate) fn remove(machines: &Path, machine: &str) -> anyhow::Result<()> {
    let file = file(machines, machine);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} could not be removed", file.display()))
        }
        _ => Ok(()),
    }
}

/// Takes all the room on a machine's disk; answers with the bytes.
pub(crate) async fn fill(engine: &Docker, machines: &Path, machine: &str) -> anyhow::Result<u64> {
    if size_bytes(machines, machine)?.is_none() {
        return Err(Failure::new(Exit::Environment, format!("{machine} has no disk of its own that could be filled"))
            .why("its data is on this machine's disk, which is not filled on purpose")
            .fix("`cargo wopr down --volumes`, then `cargo wopr up --disk 8G` brings both machines up with one each")
            .into());
    }
    let answer = told(engine, machine, "fill").await?;
    answer.parse().with_context(|| format!("{machine} says {answer}"))
}

/// Gives the room back; answers whether any was taken.
pub(crate) async fn release(engine: &Docker, machine: &str) -> anyhow::Result<bool> {
    Ok(told(engine, machine, "release").await? == "true")
}

/// Free bytes where a machine's engine keeps everything, and all there are.
pub(crate) async fn room(engine: &Docker, machine: &str) -> anyhow::Result<(u64, u64)> {
    let answer = told(engine, machine, "room").await?;
    let numbers = answer.split_once(' ').and_then(|(free, all)| Some((free.parse().ok()?, all.parse().ok()?)));
    numbers.with_context(|| format!("{machine} says {answer}"))
}

async fn told(engine: &Docker, machine: &str, what: &str) -> anyhow::Result<String> {
    let output = output_of(engine, machine, &[MACHINE_PROGRAM, "disk", what]).await?;
    Ok(output.trim().to_owned())
}
