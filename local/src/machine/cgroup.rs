//! The control group of a machine's containers: below the machine's own, so that its limits, its figures and a pause of it
//! take them in.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where control groups are mounted.
const MOUNTED: &str = "/sys/fs/cgroup";
/// Below it, a hierarchy that holds every container: that of version 2, or one of version 1.
const HIERARCHIES: [&str; 3] = ["", "memory", "pids"];

/// `inner` below the group this process is in; `None` if that is the topmost or cannot be told.
pub(super) fn own_inner() -> io::Result<Option<String>> {
    let Some(group) = own(&fs::read_to_string("/proc/self/cgroup")?) else {
        return Ok(None);
    };
    let unified = Path::new(MOUNTED).join("cgroup.controllers").exists();
    if unified {
        make_room(&Path::new(MOUNTED).join(group.trim_start_matches('/')))?;
    }
    Ok(Some(format!("{group}/inner")))
}

/// The group in the text of `/proc/self/cgroup`: of the memory controller, or the only one there is.
fn own(text: &str) -> Option<String> {
    let group_of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
            controllers.split(',').any(|controller| controller == wanted).then_some(group)
        })
    };
    group_of("memory").or_else(|| group_of("")).filter(|group| *group != "/").map(str::to_owned)
}

/// Kills what runs in the group and below it; answers with how many processes that were.
pub(super) fn kill_all(group: &str) -> io::Result<usize> {
    let Some(directory) = directory(group) else {
        return Ok(0);
    };
    let processes = processes(&directory)?;
    for process in &processes {
        match kill(Pid::from_raw(*process), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(processes.len())
}

/// Where the group is, if it is.
pub(super) fn directory(group: &str) -> Option<PathBuf> {
    let group = group.trim_start_matches('/');
    let mut found = HIERARCHIES.iter().map(|hierarchy| Path::new(MOUNTED).join(hierarchy).join(group));
    found.find(|directory| directory.join("cgroup.procs").exists())
}

/// What runs in the group of this directory and below it; nothing if it is gone.
pub(super) fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let mut processes = Vec::new();
    match collect(directory, &mut processes) {
        // Groups end while they are read; what was in them has ended before.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32) => {}
        other => other?,
    }
    Ok(processes)
}

fn collect(directory: &Path, processes: &mut Vec<i32>) -> io::Result<()> {
    let listed = fs::read_to_string(directory.join("cgroup.procs"))?;
    // Zero stands for a process of another process namespace, which is none of ours.
    processes.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|process| *process > 1));
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), processes)?;
        }
    }
    Ok(())
}

/// In version 2 a group that hands its controllers on may hold no process itself: moves all into `supervisor` below it.
fn make_room(group: &Path) -> io::Result<()> {
    let supervisor = group.join("supervisor");
    fs::create_dir_all(&supervisor)?;
    for process in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        fs::write(supervisor.join("cgroup.procs"), process)?;
    }
    for controller in fs::read_to_string(group.join("cgroup.controllers"))?.split_whitespace() {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_a_group_are_those_below_it_too() {
        let directory = std::env::temp_dir().join(format!("wopr-cgroup-{}", std::process::id()));
        fs::create_dir_all(directory.join("inner/one")).unwrap();
        for (group, listed) in [("", "0\n"), ("inner", ""), ("inner/one", "41\n42\n")] {
            fs::write(directory.join(group).join("cgroup.procs"), listed).unwrap();
        }
        let mut processes = Vec::new();
        collect(&directory, &mut processes).unwrap();
        assert_eq!(processes, [41, 42]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_own_group_is_read_from_either_version() {
        let first = "9:name=systemd:/docker/ab\n4:cpu,cpuacct:/docker/ab\n3:memory:/docker/ab\n";
        assert_eq!(own(first).as_deref(), Some("/docker/ab"));
        assert_eq!(own("0::/system.slice/docker-ab.scope\n").as_deref(), Some("/system.slice/docker-ab.scope"));
        for nothing in ["0::/\n", "3:memory:/\n", "", "nonsense"] {
            assert_eq!(own(nothing), None, "{nothing:?}");
        }
    }
}
