//! Files with process ids that an engine left when its machine was killed. An engine that finds one whose number is in use
//! again takes that process for itself and refuses to start.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Where engines note their process ids, and the program each belongs to.
const FILES: [(&str, &str); 3] = [
    ("/run/docker.pid", "dockerd"),
    ("/run/docker/containerd/containerd.pid", "containerd"),
    ("/run/docker/containerd/docker-containerd.pid", "containerd"),
];

/// Removes those that name no running process of that program.
pub(super) fn clear() -> io::Result<()> {
    for (file, program) in FILES {
        clear_one(Path::new(file), program, Path::new("/proc"))?;
    }
    Ok(())
}

fn clear_one(file: &Path, program: &str, processes: &Path) -> io::Result<()> {
    let noted = match fs::read_to_string(file) {
        Ok(noted) => noted,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let name = noted.trim().parse::<u32>().ok().map(|id| processes.join(id.to_string()).join("comm"));
    // A process that is gone has no name, which is all that is asked here.
    let running = name.is_some_and(|name| fs::read_to_string(name).is_ok_and(|name| name.trim() == program));
    if running {
        return Ok(());
    }
    tracing::info!("removing {}, which names no running {program}", file.display());
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_of_the_same_program_stays() {
        let directory = std::env::temp_dir().join(format!("wopr-stale-{}", std::process::id()));
        let processes = directory.join("proc");
        fs::create_dir_all(processes.join("7")).unwrap();
        fs::create_dir_all(processes.join("8")).unwrap();
        fs::write(processes.join("7/comm"), "dockerd\n").unwrap();
        fs::write(processes.join("8/comm"), "wopr-machine\n").unwrap();
        let file = directory.join("docker.pid");
        for (noted, stays) in [("7", true), ("8\n", false), ("9", false), ("", false), ("seven", false)] {
            fs::write(&file, noted).unwrap();
            clear_one(&file, "dockerd", &processes).unwrap();
            assert_eq!(file.exists(), stays, "{noted:?}");
        }
        clear_one(&directory.join("absent.pid"), "dockerd", &processes).unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}
