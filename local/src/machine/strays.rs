//! Containers that go on without their engine's knowledge.
//!
//! An engine notes that a container runs after it has started it. One that is killed in between comes back with a container
//! that it takes for stopped, while its process goes on. It does not end that process when it starts, it refuses to start the
//! container ("id already in use"), and it removes it without a look at the process: no call of its interface ends it. So
//! the machine does. Once the process has ended, the engine starts the container again like any other.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};

use super::cgroup;
use crate::probe;

/// How often the machine looks for strays.
const EVERY: Duration = Duration::from_secs(2);

/// What is asked of the engine's description of a container.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    /// Also while it is paused, and while the engine is about to start it again.
    running: bool,
}

/// Ends, for as long as it is polled, the processes of containers in the control group `group` that the engine behind
/// `socket` does not hold for running.
pub async fn watch(socket: PathBuf, group: String) -> Infallible {
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let (socket, group) = (socket.clone(), group.clone());
        match tokio::task::spawn_blocking(move || look(&group, &|id| runs(&socket, id))).await {
            Ok(Ok(())) => {}
            // An engine that is away is told of by whoever keeps it running, and the next round asks again.
            Ok(Err(error)) => tracing::debug!("not every container could be looked at: {error}"),
            Err(error) => tracing::error!("looking for strays ended: {error}"),
        }
    }
}

/// One round. A container that cannot be asked for does not keep the others from being looked at.
fn look(group: &str, runs: &dyn Fn(&str) -> io::Result<bool>) -> io::Result<()> {
    let Some(directory) = cgroup::directory(group) else { return Ok(()) };
    let mut outcome = Ok(());
    for (id, directory) in containers(&directory)? {
        if let Err(error) = look_at(&id, &directory, runs) {
            outcome = Err(error);
        }
    }
    outcome
}

/// The engine answers for a container that it is just starting only after it has noted how that went. So processes that
/// are there before it was asked and after it said no are strays.
fn look_at(id: &str, directory: &Path, runs: &dyn Fn(&str) -> io::Result<bool>) -> io::Result<()> {
    let before = cgroup::processes(directory)?;
    if before.is_empty() || runs(id)? {
        return Ok(());
    }
    let mut strays = cgroup::processes(directory)?;
    strays.retain(|process| before.contains(process));
    for stray in &strays {
        match kill(Pid::from_raw(*stray), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !strays.is_empty() {
        let count = strays.len();
        tracing::warn!(container.id = id, "killed {count} processes of container {id}, which the engine has lost");
    }
    Ok(())
}

/// Containers by their ids: groups of their own below the engine's, called so or, where systemd made them, alike.
fn containers(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(id_of) {
            found.push((id.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

fn id_of(group: &str) -> Option<&str> {
    let id = group.strip_prefix("docker-").and_then(|rest| rest.strip_suffix(".scope")).unwrap_or(group);
    let is_id = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(id)
}

/// Whether the engine holds this container for running. One that it does not know does not run.
fn runs(socket: &Path, id: &str) -> io::Result<bool> {
    match probe::unix_answer(socket, &format!("/containers/{id}/json"))? {
        (200, body) => Ok(serde_json::from_slice::<Description>(&body)?.state.running),
        (404, _) => Ok(false),
        (status, _) => Err(io::Error::other(format!("the engine answered {status} for container {id}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};

    use super::*;

    const IDS: [&str; 3] = [
        "0000000000000000000000000000000000000000000000000000000000000001",
        "0000000000000000000000000000000000000000000000000000000000000002",
        "0000000000000000000000000000000000000000000000000000000000000003",
    ];

    #[test]
    fn groups_of_containers_are_told_from_others() {
        let scope = format!("docker-{}.scope", IDS[0]);
        assert_eq!([id_of(IDS[0]), id_of(&scope)], [Some(IDS[0]); 2]);
        let long = format!("{}0", IDS[0]);
        for other in ["buildkit", "inner", "", &long, &IDS[0][1..], &IDS[0].replace('0', "g")] {
            assert_eq!(id_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_processes_that_the_engine_does_not_hold_for_running_are_killed() {
        let directory = std::env::temp_dir().join(format!("wopr-strays-{}", std::process::id()));
        let mut children: Vec<Child> = Vec::new();
        for id in IDS {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            std::fs::create_dir_all(directory.join(id)).unwrap();
            std::fs::write(directory.join(id).join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
            children.push(child);
        }
        let outcomes = [Ok(true), Ok(false), Err(io::Error::other("away"))];
        for (id, outcome) in IDS.into_iter().zip(outcomes) {
            let fails = outcome.is_err();
            let said = std::cell::Cell::new(Some(outcome));
            let looked = look_at(id, &directory.join(id), &|asked| {
                assert_eq!(asked, id);
                said.take().unwrap()
            });
            assert_eq!(looked.is_err(), fails);
        }
        assert_eq!(children[1].wait().unwrap().signal(), Some(9));
        for index in [0, 2] {
            assert_eq!(children[index].try_wait().unwrap(), None, "it lives");
            children[index].kill().unwrap();
            children[index].wait().unwrap();
        }
        // A container that ends while it is looked at.
        std::fs::remove_dir_all(directory.join(IDS[1])).unwrap();
        look_at(IDS[1], &directory.join(IDS[1]), &|_| panic!("there is nobody to ask for")).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
