//! A place of its own on this machine: its own processes, nothing in `/run`, `/etc/docker` and `/var/lib/docker`, and a network
//! that has nothing but a loopback. When what is done there ends in whatever way, its processes and mounts end with it, and
//! what runs on this machine has noticed nothing.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
};

use anyhow::Context;
use tokio::process::Command;

use crate::{
    apt,
    commands::bundle,
    engine::{self, find_program},
    failure::{Exit, Failure},
    paths::{Paths, private_directory},
    ui::Ui,
};

/// Where system programs lie; a compiler and cargo's own are elsewhere.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Where an engine keeps its images and containers.
const ENGINE_DATA: &str = "/var/lib/docker";
/// Where an engine has its sockets and pid files.
const RUN: &str = "/run";
/// Where an engine is told to keep them elsewhere, or who may reach it.
pub(super) const ENGINE_CONFIG: &str = "/etc/docker";
/// Below the scratch directory: what the engine of the drill has in place of [`ENGINE_DATA`].
const DOCKER: &str = "docker";
/// Below the scratch directory: the home of whoever brings the stack up.
const HOME: &str = "home";
/// Below the scratch directory: the program of the bundle.
pub(super) const PROGRAM: &str = "wopr-ops";

/// Works in a directory that is gone afterwards.
pub(super) async fn in_scratch(
    paths: &Paths,
    name: &str,
    work: impl AsyncFnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let scratch = paths.data.join(name);
    let remove = || match fs::remove_dir_all(&scratch) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} could not be removed", scratch.display()))
        }
        _ => Ok(()),
    };
    // A drill that was killed left it.
    remove()?;
    for directory in [scratch.clone(), scratch.join(DOCKER), scratch.join(HOME)] {
        private_directory(&directory)?;
    }
    let done = work(&scratch).await;
    remove()?;
    done
}

/// Makes the place and has this program do something in it: `drill WHAT BUNDLE SCRATCH`. The program of the bundle lies ready
/// there.
pub(super) async fn enter(ui: &Ui, what: &str, file: &Path, scratch: &Path) -> anyhow::Result<()> {
    let needed = [("unshare", "util-linux"), ("mount", "mount"), ("ip", "iproute2")];
    let missing = needed.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package);
    let missing: Vec<&str> = missing.collect();
    if !missing.is_empty() {
        apt::install(ui, &missing).await?;
    }
    let (program, from) = (scratch.join(PROGRAM), file.to_owned());
    tokio::task::spawn_blocking(move || bundle::unpack_program(&from, &program)).await??;
    let unshare = find_program("unshare").context("unshare is not installed")?;
    let status = Command::new(unshare)
        .args(["--net", "--pid", "--mount", "--mount-proc", "--propagation", "private", "--fork", "--kill-child"])
        .arg(std::env::current_exe()?)
        .args(["drill", what])
        .args([file, scratch])
        .env_clear()
        .envs([("PATH", SYSTEM_PATH), ("NO_COLOR", "1")])
        .env("HOME", scratch.join(HOME))
        .current_dir(scratch.join(HOME))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("unshare could not be run")?;
    if !status.success() {
        return Err(Failure::new(Exit::Check, "what was done in a place of its own failed")
            .why(format!("it ended with {status}; what it said is above"))
            .into());
    }
    Ok(())
}

/// What the first process in there does first: it shuts the doors, and makes sure that they are shut.
pub(super) async fn shut(scratch: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(std::process::id() == 1, "this is for drills alone");
    let docker = scratch.join(DOCKER);
    // What is written there must not be written on this machine, whether it has these or not.
    for directory in [ENGINE_DATA, ENGINE_CONFIG] {
        fs::create_dir_all(directory).with_context(|| format!("{directory} could not be created"))?;
    }
    system("mount", &["--bind", text(&docker)?, ENGINE_DATA]).await?;
    system("mount", &["-t", "tmpfs", "tmpfs", ENGINE_CONFIG]).await?;
    // The last one: `mount` keeps notes in there.
    system("mount", &["-t", "tmpfs", "tmpfs", RUN]).await?;
    system("ip", &["link", "set", "lo", "up"]).await?;
    let ours = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    anyhow::ensure!(ours(Path::new(ENGINE_DATA))? == ours(&docker)?, "{ENGINE_DATA} is still that of this machine");
    for directory in [RUN, "/var/run", ENGINE_CONFIG] {
        anyhow::ensure!(fs::read_dir(directory)?.next().is_none(), "{directory} is still that of this machine");
    }
    anyhow::ensure!(engine::connect().await.is_err(), "an engine answers before one was started");
    closed()
}

/// Makes sure that no packet can leave.
pub(super) fn closed() -> anyhow::Result<()> {
    let table = fs::read_to_string("/proc/net/route").context("the routes cannot be read")?;
    anyhow::ensure!(!leads_out(&table), "there is a way out:\n{table}");
    // Kept for documentation, so that nobody has it: <https://www.rfc-editor.org/rfc/rfc5737>.
    let elsewhere = (Ipv4Addr::new(192, 0, 2, 1), 9);
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(elsewhere)) {
        Err(error) if error.kind() == ErrorKind::NetworkUnreachable => Ok(()),
        other => anyhow::bail!("the outside is not out of reach: {other:?}"),
    }
}

/// Whether a routing table, in the format of `/proc/net/route`, has a route to everywhere.
fn leads_out(table: &str) -> bool {
    table.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000"))
}

pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}

async fn system(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    told(&find_program(program).with_context(|| format!("{program} is not installed"))?, arguments).await
}

/// Runs a program to its end, which must be a good one.
pub(super) async fn told(program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).status().await;
    let status = status.with_context(|| format!("{} could not be run", program.display()))?;
    anyhow::ensure!(status.success(), "{} {} ended with {status}", program.display(), arguments.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_route_to_everywhere_leads_out() {
        let table = |destination: &str| {
            format!("Iface\tDestination\tGateway \tFlags\nwopr0\t{destination}\t00000000\t0001\t0\t0\t0\t0000FFFF\n")
        };
        assert!(leads_out(&table("00000000")));
        assert!(!leads_out(&table("000011AC")));
        assert!(!leads_out("Iface\tDestination\tGateway \tFlags\n"));
    }

    #[test]
    fn this_machine_is_told_from_a_closed_one() {
        // Where tests run there is at least a loopback to bind to; whether there is a way out, both looks agree.
        let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
        assert_eq!(closed().is_err(), leads_out(&table));
    }
}
