//! A snapshot into an empty directory, and the proof that it is there.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};
use rustic_core::repofile::{Node, SnapshotFile};
use rustic_core::{IndexedFull, IndexedFullStatus, LsOptions};
use sha2::{Digest as _, Sha256};

use crate::error::BackupError;
use crate::manifest::{DATA_PATH, DESCRIPTION_PATH, Entry, EntryKind, Manifest, RawPath};
use crate::report::RestoreReport;
use crate::repository::{Backups, Session, time_of};
use crate::source::read_xattrs;

/// Files are restored by at most this many threads, each of which has the engine unpack several chunks at once.
const THREADS: usize = 4;

/// What is restored, and where to.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The snapshot's id or the beginning of it; none is the newest that counts.
    pub snapshot: Option<String>,
    /// An empty directory.
    pub directory: PathBuf,
    /// Where the description is to be written, if anywhere.
    pub description: Option<PathBuf>,
}

impl Backups {
    /// Restores a snapshot and compares what is then on the disk with the manifest. After a failure the directory is empty.
    ///
    /// # Errors
    /// As every command; [`BackupError::Differs`] where what was restored is not what was saved.
    pub fn restore(&self, request: &RestoreRequest) -> Result<RestoreReport, BackupError> {
        let target = &request.directory;
        std::fs::create_dir_all(target).map_err(|error| BackupError::file(target, error))?;
        if std::fs::read_dir(target).map_err(|error| BackupError::file(target, error))?.next().is_some() {
            return Err(BackupError::Usage(format!("{} is not empty", target.display())));
        }
        let session = self.session("restore")?;
        let snapshot = session.snapshot(request.snapshot.as_deref())?;
        let manifest = session.manifest(&snapshot)?;
        if let Some(path) = &request.description {
            let description = session.document(&snapshot, DESCRIPTION_PATH)?;
            std::fs::write(path, &description).map_err(|error| BackupError::file(path, error))?;
        }
        let result = session
            .restore_into(&snapshot, &manifest, target)
            .and_then(|()| session.objects.settle("restoring", Ok(())))
            .and_then(|()| compare(&manifest, target, Depth::Metadata));
        if let Err(error) = result {
            empty(target);
            return Err(error);
        }
        Ok(RestoreReport {
            snapshot: snapshot.id.to_hex().as_str().to_owned(),
            taken_at: time_of(&snapshot),
            totals: manifest.totals,
            read_bytes: session.objects.read_bytes(),
        })
    }
}

/// Removes what a failed restore left. What cannot be removed keeps the directory from being taken for a restored one.
fn empty(target: &Path) {
    let entries = match std::fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) => return tracing::warn!("{} could not be emptied: {error}", target.display()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!("{} could not be removed: {error}", path.display());
        }
    }
}

/// The snapshot's files by their path below the directory.
pub(crate) fn files<S: IndexedFull>(
    session: &Session<S>,
    snapshot: &SnapshotFile,
) -> Result<HashMap<RawPath, Node>, BackupError> {
    let Some(root) = session.node(snapshot, DATA_PATH)? else {
        return Err(BackupError::NoManifest(snapshot.id.to_hex().as_str().to_owned()));
    };
    let mut found = HashMap::new();
    let nodes =
        session.objects.settle("reading the directories", session.repository.ls(&root, &LsOptions::default()))?;
    for node in nodes {
        let (path, node) = session.objects.settle("reading the directories", node)?;
        if node.is_file() {
            found.insert(RawPath::from(path.as_path()), node);
        }
    }
    Ok(found)
}

pub(crate) fn missing(snapshot: &SnapshotFile, path: &RawPath) -> BackupError {
    let object = format!("{}:{DATA_PATH}/{path}", snapshot.id.to_hex().as_str());
    BackupError::Corrupt { object, reason: "the manifest names it, the snapshot does not have it".to_owned() }
}

/// Calls the function for each item, from several threads, until one fails; the first failure is returned.
pub(crate) fn on_threads<T: Sync>(
    items: &[T],
    function: impl Fn(&T) -> Result<(), BackupError> + Sync,
) -> Result<(), BackupError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = function(item) {
                        next.store(items.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}

impl Session<IndexedFullStatus> {
    fn restore_into(&self, snapshot: &SnapshotFile, manifest: &Manifest, target: &Path) -> Result<(), BackupError> {
        let nodes = files(self, snapshot)?;
        let at =
            |entry: &Entry| if entry.path.0.is_empty() { target.to_owned() } else { target.join(entry.path.as_path()) };
        for entry in manifest.entries.iter().skip(1) {
            let path = at(entry);
            match &entry.kind {
                EntryKind::Directory => {
                    let mut builder = std::fs::DirBuilder::new();
                    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
                    builder.create(&path).map_err(|error| BackupError::file(&path, error))?;
                }
                EntryKind::Symlink { target } => {
                    std::os::unix::fs::symlink(target.as_path(), &path)
                        .map_err(|error| BackupError::file(&path, error))?;
                    set_metadata(entry, &path)?;
                }
                EntryKind::File { .. } => {}
            }
        }
        let files: Vec<&Entry> =
            manifest.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. })).collect();
        on_threads(&files, |entry| {
            let node = nodes.get(&entry.path).ok_or_else(|| missing(snapshot, &entry.path))?;
            let path = at(entry);
            self.restore_file(node, &path)?;
            compare_content(entry, &path)?;
            set_metadata(entry, &path)
        })?;
        // What is in a directory changes its time, so the innermost come first.
        for entry in manifest.entries.iter().rev().filter(|entry| matches!(entry.kind, EntryKind::Directory)) {
            set_metadata(entry, &at(entry))?;
        }
        let directory = File::open(target).map_err(|error| BackupError::file(target, error))?;
        nix::unistd::syncfs(&directory).map_err(|error| BackupError::file(target, error.into()))
    }

    fn restore_file(&self, node: &Node, path: &Path) -> Result<(), BackupError> {
        let mut file = Restoring {
            file: File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| BackupError::file(path, error))?,
            failure: None,
        };
        let result = self.repository.dump(node, &mut file);
        match file.failure {
            Some(error) => Err(BackupError::file(path, error)),
            None => self.objects.settle(&path.display().to_string(), result),
        }
    }
}

/// A file that remembers why it could not be written, which the engine's error does not tell.
struct Restoring {
    file: File,
    failure: Option<std::io::Error>,
}

impl Write for Restoring {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.file.write(buffer).map_err(|error| {
            let told = std::io::Error::from(error.kind());
            if error.kind() != std::io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            told
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn set_metadata(entry: &Entry, path: &Path) -> Result<(), BackupError> {
    let failed = |error: std::io::Error| BackupError::file(path, error);
    let link = matches!(entry.kind, EntryKind::Symlink { .. });
    let status = std::fs::symlink_metadata(path).map_err(failed)?;
    // An owner that is right already needs no privilege.
    if (status.uid(), status.gid()) != (entry.uid, entry.gid) {
        std::os::unix::fs::lchown(
            path,
            Some(Uid::from_raw(entry.uid).as_raw()),
            Some(Gid::from_raw(entry.gid).as_raw()),
        )
        .map_err(failed)?;
    }
    if !link {
        // After the owner, because a change of owner clears the set-id bits.
        std::fs::set_permissions(path, Permissions::from_mode(entry.mode)).map_err(failed)?;
    }
    for (name, value) in &entry.xattrs {
        let value = STANDARD.decode(value).map_err(|error| BackupError::Corrupt {
            object: entry.path.to_string(),
            reason: format!("its attribute {name}: {error}"),
        })?;
        xattr::set(path, name, &value).map_err(failed)?;
    }
    let seconds = entry.modified_at.as_second();
    let time = TimeSpec::new(seconds, entry.modified_at.subsec_nanosecond().into());
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|error| failed(error.into()))
}

/// How much of a directory is compared with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Which entries there are, what they are, and all but the content of files.
    Metadata,
    /// That, and every byte.
    Content,
}

/// Compares a directory with a manifest.
///
/// # Errors
/// [`BackupError::Differs`] names the first path that is not as it should be, and in what.
pub fn compare(manifest: &Manifest, directory: &Path, depth: Depth) -> Result<(), BackupError> {
    let mut expected: HashMap<&RawPath, &Entry> = manifest.entries.iter().map(|entry| (&entry.path, entry)).collect();
    let mut files = Vec::new();
    let mut directories = vec![RawPath::default()];
    while let Some(below) = directories.pop() {
        let path = directory.join(below.as_path());
        let Some(entry) = expected.remove(&below) else {
            return Err(BackupError::Differs {
                path: below.to_string(),
                reason: "it is not in the manifest".to_owned(),
            });
        };
        let status = std::fs::symlink_metadata(&path).map_err(|error| BackupError::file(&path, error))?;
        compare_metadata(entry, &path, &status)?;
        if status.is_dir() {
            for found in std::fs::read_dir(&path).map_err(|error| BackupError::file(&path, error))? {
                let found = found.map_err(|error| BackupError::file(&path, error))?;
                directories.push(RawPath::from(below.as_path().join(found.file_name()).as_path()));
            }
        } else if status.is_file() {
            files.push((entry, path));
        }
    }
    if let Some(path) = expected.into_keys().min() {
        return Err(BackupError::Differs { path: path.to_string(), reason: "it is missing".to_owned() });
    }
    match depth {
        Depth::Metadata => Ok(()),
        Depth::Content => on_threads(&files, |(entry, path)| compare_content(entry, path)),
    }
}

fn differs(entry: &Entry, what: &str, found: &dyn std::fmt::Debug, expected: &dyn std::fmt::Debug) -> BackupError {
    let reason = format!("its {what} is {found:?}, not {expected:?}");
    BackupError::Differs { path: entry.path.to_string(), reason }
}

fn compare_metadata(entry: &Entry, path: &Path, status: &std::fs::Metadata) -> Result<(), BackupError> {
    let kind = if status.is_dir() {
        "directory"
    } else if status.is_symlink() {
        "symlink"
    } else if status.is_file() {
        "file"
    } else {
        "neither"
    };
    let expected = match &entry.kind {
        EntryKind::Directory => "directory",
        EntryKind::File { .. } => "file",
        EntryKind::Symlink { .. } => "symlink",
    };
    if kind != expected {
        return Err(differs(entry, "kind", &kind, &expected));
    }
    match &entry.kind {
        EntryKind::File { size_bytes, .. } if *size_bytes != status.len() => {
            return Err(differs(entry, "size", &status.len(), size_bytes));
        }
        EntryKind::Symlink { target } => {
            let found = std::fs::read_link(path).map_err(|error| BackupError::file(path, error))?;
            if found != target.as_path() {
                return Err(differs(entry, "target", &found, &target.to_string()));
            }
        }
        _ => {}
    }
    let mode = status.permissions().mode() & 0o7777;
    if kind != "symlink" && mode != entry.mode {
        return Err(differs(entry, "mode", &format!("{mode:o}"), &format!("{:o}", entry.mode)));
    }
    if (status.uid(), status.gid()) != (entry.uid, entry.gid) {
        return Err(differs(entry, "owner", &(status.uid(), status.gid()), &(entry.uid, entry.gid)));
    }
    let modified = (status.mtime(), status.mtime_nsec());
    let expected = (entry.modified_at.as_second(), i64::from(entry.modified_at.subsec_nanosecond()));
    if modified != expected {
        return Err(differs(entry, "time", &modified, &expected));
    }
    let xattrs = read_xattrs(path)?;
    if entry.xattrs.iter().any(|(name, value)| xattrs.get(name) != Some(value)) {
        return Err(differs(entry, "attributes", &xattrs, &entry.xattrs));
    }
    Ok(())
}

/// Reads a file to its end and compares it with what the manifest says of it.
fn compare_content(entry: &Entry, path: &Path) -> Result<(), BackupError> {
    let EntryKind::File { size_bytes, sha256 } = &entry.kind else { return Ok(()) };
    let failed = |error| BackupError::file(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        let count = match file.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            result => result.map_err(failed)?,
        };
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
    if size != *size_bytes {
        return Err(differs(entry, "size", &size, size_bytes));
    }
    let found = hex::encode(hash.finalize());
    if found != *sha256 {
        return Err(differs(entry, "SHA-256", &found, sha256));
    }
    Ok(())
}
