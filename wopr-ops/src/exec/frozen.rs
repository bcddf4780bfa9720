//! What is frozen cannot be killed where control groups are of version 1: a machine in which a bot is paused, as it is while it is
//! backed up, would not end.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::{Docker, query_parameters::InspectContainerOptions};

/// Where version 1 has the groups that can be frozen; version 2 lets a frozen process be killed.
const FREEZER: &str = "/sys/fs/cgroup/freezer";
/// Something may be frozen until the very end.
const AGAIN: Duration = Duration::from_millis(100);
/// How long what was killed may take to end.
const LIMIT: Duration = Duration::from_secs(10);

/// Ends a container of this machine's engine, while what is frozen in it is let go.
///
/// # Errors
/// Those of `end`, and if a group cannot be let go.
pub(crate) async fn ended<T>(
    engine: &Docker,
    container: &str,
    end: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let Some((_, group)) = process_and_group(engine, container).await? else { return end.await };
    let mut end = std::pin::pin!(end);
    loop {
        thaw(&group).with_context(|| format!("what is frozen in {container} cannot be let go"))?;
        tokio::select! {
            ended = &mut end => return ended,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Lets a container of this machine's engine end that somebody has killed while something in it was frozen: the engine takes
/// it for one that runs, and nothing in it does.
///
/// # Errors
/// If it does not end, and those of the engine.
pub(crate) async fn end_killed(engine: &Docker, container: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    while let Some((process, group)) = process_and_group(engine, container).await? {
        // What is ending has given its memory back already.
        let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        if !command.is_empty() {
            return Ok(());
        }
        thaw(&group).with_context(|| format!("what is frozen in {container} cannot be let go"))?;
        anyhow::ensure!(since.elapsed() < LIMIT, "{container} was killed, and does not end");
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// The first process of a container that runs, and its group, where groups are of version 1.
async fn process_and_group(engine: &Docker, container: &str) -> anyhow::Result<Option<(i64, PathBuf)>> {
    let found = match engine.inspect_container(container, None::<InspectContainerOptions>).await {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
        found => found.with_context(|| format!("the engine does not tell about {container}"))?,
    };
    let process = found.state.and_then(|state| state.pid).filter(|process| *process > 0);
    let Some((process, id)) = process.zip(found.id) else { return Ok(None) };
    // A process that is ending belongs to no group any more, so that it cannot be asked.
    let group = group_of(Path::new(FREEZER), &id);
    Ok(group
        .with_context(|| format!("the control group of {container} cannot be found"))?
        .map(|group| (process, group)))
}

/// The group of a container at or below `top`, as either of the engine's drivers calls it.
fn group_of(top: &Path, id: &str) -> io::Result<Option<PathBuf>> {
    let names = [id.to_owned(), format!("docker-{id}.scope")];
    let entries = match fs::read_dir(top) {
        Err(error) if has_gone(&error) => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if names.iter().any(|name| entry.file_name() == **name) {
            return Ok(Some(entry.path()));
        }
        if let Some(group) = group_of(&entry.path(), id)? {
            return Ok(Some(group));
        }
    }
    Ok(None)
}

/// Groups end while they are read.
fn has_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV)
}

/// Lets everything in a group and below it go on.
fn thaw(group: &Path) -> io::Result<()> {
    match thaw_all(group) {
        Err(error) if has_gone(&error) => Ok(()),
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
    fn the_group_of_a_container_is_found_by_its_id() {
        let top = std::env::temp_dir().join(format!("wopr-groups-{}", std::process::id()));
        for group in ["docker/ab/inner/cd", "system.slice/docker-ef.scope"] {
            fs::create_dir_all(top.join(group)).unwrap();
        }
        let found = |id| group_of(&top, id).unwrap().map(|path| path.strip_prefix(&top).unwrap().display().to_string());
        assert_eq!(found("ab").as_deref(), Some("docker/ab"));
        assert_eq!(found("cd").as_deref(), Some("docker/ab/inner/cd"));
        assert_eq!(found("ef").as_deref(), Some("system.slice/docker-ef.scope"));
        assert_eq!(found("gh"), None);
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(group_of(&top, "ab").unwrap(), None, "version 2 has no such hierarchy");
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
