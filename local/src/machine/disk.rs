//! A machine's own disk: a file with a file system, mounted over the directory of the engine's data.
//!
//! A machine is given one by a file [`FILE`] in the directory it shares with its host. Without it the engine's data lies on
//! the host's disk, which is then not limited and cannot be filled without filling the host's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::statvfs;
use tokio::process::Command;

/// What the file is called in the shared directory.
pub const FILE: &str = "disk.img";
/// Where the engine keeps everything.
pub const DATA: &str = "/var/lib/docker";
/// The file that takes up all room, while it is there.
const BALLAST: &str = "ballast";
const MOUNT: &str = "/usr/bin/mount";

/// `/dev/loop-control`: <https://www.kernel.org/doc/Documentation/admin-guide/devices.txt>
const LOOP_CONTROL: (u64, u64) = (10, 237);
/// The major number of loop devices, from the same list.
const LOOP: u64 = 7;
/// How many loop devices are made known. The kernel hands out the lowest free one.
const LOOP_DEVICES: u64 = 64;

/// The smallest piece that room is taken in, in bytes: a block of most file systems.
const PIECE_BYTES: i64 = 4096;
/// The largest one.
const PIECE_BYTES_MAX: i64 = 1 << 30;

/// Mounts the file over the directory of the engine's data, if there is one; answers whether there is.
pub(super) async fn mount(shared: &Path) -> io::Result<bool> {
    let file = shared.join(FILE);
    if !file.try_exists()? {
        return Ok(false);
    }
    devices()?;
    let mut command = Command::new(MOUNT);
    command.args(["--no-mtab", "--types", "ext4", "--options", "loop,noatime"]).arg(&file).arg(DATA);
    let output = command.stdin(Stdio::null()).output().await?;
    if output.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{MOUNT} ended with {}: {said}", output.status)))
}

/// A container's `/dev` has no loop devices of its own.
fn devices() -> io::Result<()> {
    let (major, minor) = LOOP_CONTROL;
    let numbered = (0..LOOP_DEVICES).map(|number| (format!("/dev/loop{number}"), SFlag::S_IFBLK, (LOOP, number)));
    let all = [("/dev/loop-control".to_owned(), SFlag::S_IFCHR, (major, minor))].into_iter().chain(numbered);
    for (path, kind, (major, minor)) in all {
        match mknod(path.as_str(), kind, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(io::Error::other(format!("{path} could not be made: {error}"))),
        }
    }
    Ok(())
}

/// Free bytes on the file system of a directory, and all it has.
///
/// # Errors
/// If the system does not tell.
pub fn room(directory: &Path) -> io::Result<(u64, u64)> {
    let found = statvfs(directory)?;
    let block = found.fragment_size();
    Ok((found.blocks_available().saturating_mul(block), found.blocks().saturating_mul(block)))
}

/// Takes all the room there is on the file system of a directory, which has to be a mount of its own; answers with the bytes
/// taken. A second call takes what has become free.
///
/// # Errors
/// If the directory lies on the file system of the one above it, or room cannot be taken for another reason than that there is
/// none.
pub fn fill(directory: &Path) -> io::Result<u64> {
    let above = directory.parent().unwrap_or(directory);
    if fs::metadata(directory)?.dev() == fs::metadata(above)?.dev() {
        return Err(io::Error::other(format!("{} is not on a file system of its own", directory.display())));
    }
    let ballast = OpenOptions::new().create(true).append(true).open(directory.join(BALLAST))?;
    take_all(&ballast)
}

fn take_all(ballast: &File) -> io::Result<u64> {
    let before = ballast.metadata()?.len();
    let mut piece = PIECE_BYTES_MAX;
    loop {
        // A piece that was taken in part has grown the file by that part.
        let end = i64::try_from(ballast.metadata()?.len()).map_err(io::Error::other)?;
        match fallocate(ballast, FallocateFlags::empty(), end, piece) {
            Ok(()) => {}
            Err(Errno::ENOSPC | Errno::EFBIG) if piece > PIECE_BYTES => piece = (piece / 2).max(PIECE_BYTES),
            Err(Errno::ENOSPC) => return Ok(ballast.metadata()?.len() - before),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives back what [`fill`] took; answers whether it had taken anything.
///
/// # Errors
/// If it cannot be given back.
pub fn release(directory: &Path) -> io::Result<bool> {
    match fs::remove_file(directory.join(BALLAST)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_system_of_its_own_is_filled() {
        let directory = std::env::temp_dir().join(format!("wopr-disk-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        assert!(fill(&directory).unwrap_err().to_string().contains("of its own"));
        assert!(!directory.join(BALLAST).exists());
        assert!(!release(&directory).unwrap());
        let (free, all) = room(&directory).unwrap();
        assert!(0 < free && free <= all, "{free} of {all}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
