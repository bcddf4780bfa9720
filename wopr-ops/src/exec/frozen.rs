//! What is frozen cannot be killed where control groups are of version 1: a machine in which a bot is paused, as it is while it is
//! backed up, would not end.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use bollard::{Docker, query_parameters::InspectContainerOptions};

/// Where version 1 has the groups that can be frozen; version 2 lets a frozen process be killed.
const FREEZER: &str = "/sys/fs/cgroup/freezer";
/// Something may be frozen until the very end.
const AGAIN: Duration = Duration::from_millis(100);

/// Ends a container of this machine's engine, while what is frozen in it is let go.
///
/// # Errors
/// Those of `end`, and if a group cannot be let go.
pub(crate) async fn ended<T>(
    engine: &Docker,
    container: &str,
    end: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let Some(group) = group_of(engine, container).await? else { return end.await };
    let mut end = std::pin::pin!(end);
    loop {
        thaw(&group).with_context(|| format!("what is frozen in {container} cannot be let go"))?;
        tokio::select! {
            ended = &mut end => return ended,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// The group of a container that runs, where groups are of version 1.
async fn group_of(engine: &Docker, container: &str) -> anyhow::Result<Option<PathBuf>> {
    let found = match engine.inspect_container(container, None::<InspectContainerOptions>).await {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
        found => found.with_context(|| format!("the engine does not tell about {container}"))?,
    };
    let Some(process) = found.state.and_then(|state| state.pid).filter(|process| *process > 0) else { return Ok(None) };
    match fs::read_to_string(format!("/proc/{process}/cgroup")) {
        Ok(text) => Ok(freezer(&text).map(|group| Path::new(FREEZER).join(group.trim_start_matches('/')))),
        // It has ended meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("the control group of {container} cannot be read")),
    }
}

/// The group that can be frozen, in the text of `/proc/PID/cgroup`; nobody's own is none.
fn freezer(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        (controllers == "freezer" && group != "/").then_some(group)
    })
}

/// Lets everything in a group and below it go on.
fn thaw(group: &Path) -> io::Result<()> {
    match thaw_all(group) {
        // Groups end while they are read.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV) => Ok(()),
        thawed => thawed,
    }
}

/// "No such device": how a group says that it has just been removed.
const ENODEV: i32 = 19;

fn thaw_all(group: &Path) -> io::Result<()> {
    let state = group.join("freezer.state");
    if fs::read_to_string(&state)?.trim() != "THAWED" {
        fs::write(&state, "THAWED")?;
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            thaw(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_that_can_be_frozen_is_told_from_the_others() {
        let first = "9:name=systemd:/docker/ab\n4:cpu,cpuacct:/docker/cd\n3:freezer:/docker/ef\n";
        assert_eq!(freezer(first), Some("/docker/ef"));
        for nothing in ["0::/system.slice/docker-ab.scope\n", "3:freezer:/\n", "", "nonsense"] {
            assert_eq!(freezer(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn everything_below_is_let_go_however_deep() {
        let top = std::env::temp_dir().join(format!("wopr-frozen-{}", std::process::id()));
        fs::create_dir_all(top.join("inner/one")).unwrap();
        fs::create_dir_all(top.join("inner/gone")).unwrap();
        for (group, state) in [("", "THAWED\n"), ("inner", "FREEZING\n"), ("inner/one", "FROZEN\n")] {
            fs::write(top.join(group).join("freezer.state"), state).unwrap();
        }
        thaw(&top).unwrap();
        for group in ["", "inner", "inner/one"] {
            let state = fs::read_to_string(top.join(group).join("freezer.state")).unwrap();
            assert_eq!(state.trim(), "THAWED", "{group}");
        }
        fs::remove_dir_all(&top).unwrap();
        thaw(&top).unwrap();
    }
}
