//! A graphics card that this machine was given: NVIDIA's runtime puts its device nodes and the driver's files into the
//! machine, and the machine lays them out for the containers of its own engine, which has no such runtime.
//!
//! Everything is below [`CARD`]: `dev` is handed on as devices, `lib64` and `bin` are mounted below `/usr/local/nvidia`, where
//! images made for CUDA look for a driver that comes from outside.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};

/// Where it is laid out.
pub const CARD: &str = "/run/nvidia";

/// Lays out what the runtime put here; answers how many device nodes that were.
pub(super) fn lay_out() -> io::Result<usize> {
    let devices = devices(Path::new("/dev"))?;
    if devices.is_empty() {
        return Ok(0);
    }
    let card = Path::new(CARD);
    for directory in ["dev", "lib64", "bin"] {
        fs::create_dir_all(card.join(directory))?;
    }
    for device in &devices {
        let made = card.join("dev").join(device.file_name());
        let node = device.metadata()?;
        match mknod(&made, SFlag::S_IFCHR, Mode::empty(), node.rdev()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(io::Error::other(format!("{} could not be made: {error}", made.display()))),
        }
        // What it is made with is less what this process leaves out; whoever may use it, may use this.
        fs::set_permissions(&made, node.permissions())?;
    }
    for file in driver_files(&fs::read_to_string("/proc/self/mountinfo")?) {
        let name = file.file_name().unwrap_or_default();
        if is_library(&file) {
            bind(&file, &card.join("lib64").join(name))?;
            for link in links_to(&file)? {
                link_in(&card.join("lib64"), &link, Path::new(name))?;
            }
        } else {
            bind(&file, &card.join("bin").join(name))?;
        }
    }
    Ok(devices.len())
}

/// How many device nodes are laid out here; none without the library that every driver has, for whom nodes alone are of no use.
///
/// # Errors
/// If the system does not tell.
pub fn laid_out() -> io::Result<usize> {
    let card = Path::new(CARD);
    if !card.join("lib64/libnvidia-ml.so.1").try_exists()? {
        return Ok(0);
    }
    match fs::read_dir(card.join("dev")) {
        Ok(nodes) => Ok(nodes.count()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The nodes of cards and of their driver.
fn devices(directory: &Path) -> io::Result<Vec<DirEntry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // The runtime may have mounted the node over a file: what the directory says of it is not what is there.
        if entry.file_name().to_string_lossy().starts_with("nvidia") && entry.metadata()?.file_type().is_char_device() {
            found.push(entry);
        }
    }
    Ok(found)
}

/// The driver's files among all that is mounted here: each is a mount of its own.
fn driver_files(mountinfo: &str) -> Vec<PathBuf> {
    // The fifth field: <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
    let mounted = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let below_usr = |path: &PathBuf| path.starts_with("/usr") || path.starts_with("/lib");
    mounted.filter(|path| below_usr(path) && (is_library(path) || is_tool(path))).collect()
}

/// `libcuda.so.535.54.03` and the like; those for 32-bit programs are elsewhere, and nobody here is one.
fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let for_32_bits = path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("i386"));
    name.starts_with("lib") && name.contains(".so") && !for_32_bits
}

/// `nvidia-smi` and the like.
fn is_tool(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent == Path::new("/usr/bin"))
        && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nvidia"))
}

/// What else a library is called in its directory: the names that programs ask for.
fn links_to(library: &Path) -> io::Result<Vec<PathBuf>> {
    let (whole, mut links) = (fs::canonicalize(library)?, Vec::new());
    for entry in fs::read_dir(library.parent().unwrap_or(library))? {
        let entry = entry?;
        // A link to nowhere is no name of this one.
        if entry.file_type()?.is_symlink() && fs::canonicalize(entry.path()).is_ok_and(|target| target == whole) {
            links.push(PathBuf::from(entry.file_name()));
        }
    }
    Ok(links)
}

fn link_in(directory: &Path, name: &Path, target: &Path) -> io::Result<()> {
    match symlink(target, directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes a file be there, too.
fn bind(source: &Path, target: &Path) -> io::Result<()> {
    fs::File::create(target)?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| io::Error::other(format!("{} could not be mounted: {error}", target.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_files_are_told_from_all_that_is_mounted() {
        let line = |path: &str| format!("36 35 98:0 /x {path} ro,nosuid - ext4 /dev/root rw\n");
        let all = [
            "/",
            "/dev/nvidia0",
            "/wopr",
            "/var/lib/docker",
            "/usr/lib/x86_64-linux-gnu/libcuda.so.535.54.03",
            "/usr/lib/i386-linux-gnu/libcuda.so.535.54.03",
            "/usr/lib64/libnvidia-ml.so.535.54.03",
            "/usr/bin/nvidia-smi",
            "/etc/resolv.conf",
            "/lib/firmware/nvidia/535.54.03/gsp_tu10x.bin",
            "/opt/models/lib.so",
        ];
        let found = driver_files(&all.map(line).concat());
        let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            found,
            [
                "/usr/lib/x86_64-linux-gnu/libcuda.so.535.54.03",
                "/usr/lib64/libnvidia-ml.so.535.54.03",
                "/usr/bin/nvidia-smi"
            ]
        );
    }

    #[test]
    fn a_library_is_known_by_all_of_its_names() {
        let directory = std::env::temp_dir().join(format!("wopr-card-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for name in ["libcuda.so.535", "libnvidia-ml.so.535"] {
            fs::write(directory.join(name), name).unwrap();
        }
        for (name, target) in [
            ("libcuda.so.1", "libcuda.so.535"),
            ("libcuda.so", "libcuda.so.1"),
            ("libnvidia-ml.so.1", "libnvidia-ml.so.535"),
            ("libgone.so", "libgone.so.1"),
        ] {
            link_in(&directory, Path::new(name), Path::new(target)).unwrap();
            link_in(&directory, Path::new(name), Path::new(target)).unwrap();
        }
        let mut found = links_to(&directory.join("libcuda.so.535")).unwrap();
        found.sort();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found, [Path::new("libcuda.so"), Path::new("libcuda.so.1")]);
    }
}
