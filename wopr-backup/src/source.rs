//! A directory as the engine reads it: every entry in order, every byte hashed on its way, the manifest at the end.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use nix::fcntl::OFlag;
use rustic_core::repofile::{Metadata as NodeMetadata, Node, NodeType};
use rustic_core::{ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult};
use sha2::{Digest as _, Sha256};

use crate::clock::now;
use crate::error::BackupError;
use crate::manifest::{
    DATA_PATH, DESCRIPTION_PATH, Entry, EntryKind, MANIFEST_FORMAT, MANIFEST_PATH, Manifest, RawPath, SkipReason,
    Skipped, Totals,
};
use crate::store::Objects;

/// A file whose status changed less than this before the run is read again by the next one: the kernel's timestamps advance
/// in steps of some milliseconds, so a second change within a step would not show.
const YOUNG: SignedDuration = SignedDuration::from_secs(2);

/// Hashes of a former snapshot's files, by path below the directory.
pub(crate) type KnownHashes = HashMap<RawPath, (u64, String)>;

/// A directory to be saved, with its description.
pub(crate) struct DirectorySource {
    root: PathBuf,
    description: Bytes,
    ledger: Arc<Ledger>,
}

/// What is known of the entries while the engine works on them from several threads.
pub(crate) struct Ledger {
    objects: Arc<Objects>,
    repository: String,
    started_at: Timestamp,
    known: KnownHashes,
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Default)]
struct State {
    /// None is a file that has not been read yet, or was gone.
    entries: Vec<Option<Entry>>,
    unsettled: usize,
    changed: Vec<RawPath>,
    skipped: Vec<Skipped>,
    unchanged_files: u64,
    manifest: Option<Manifest>,
}

impl DirectorySource {
    pub(crate) fn new(root: PathBuf, description: Bytes, objects: Arc<Objects>, known: KnownHashes) -> Self {
        let repository = objects.name().to_owned();
        let ledger =
            Ledger { objects, repository, started_at: now(), known, state: Mutex::default(), settled: Condvar::new() };
        Self { root, description, ledger: Arc::new(ledger) }
    }

    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// The manifest, once the engine has been given it, and how many files were not read again.
    pub(crate) fn take_manifest(&self) -> Option<(Manifest, u64)> {
        let mut state = self.state();
        let unchanged = state.unchanged_files;
        state.manifest.take().map(|manifest| (manifest, unchanged))
    }

    fn settle(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.unsettled -= 1;
        drop(state);
        self.settled.notify_all();
    }

    /// Waits until every file is settled, and puts the manifest together.
    fn manifest(&self) -> Manifest {
        let mut state = self.state();
        while state.unsettled > 0 {
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let entries: Vec<Entry> = std::mem::take(&mut state.entries).into_iter().flatten().collect();
        let mut changed_while_read = std::mem::take(&mut state.changed);
        changed_while_read.sort();
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            repository: self.repository.clone(),
            started_at: self.started_at,
            read_at: now(),
            totals: Totals::of(&entries),
            changed_while_read,
            skipped: std::mem::take(&mut state.skipped),
            entries,
        };
        state.manifest = Some(manifest.clone());
        manifest
    }

    fn fail(&self, error: BackupError) -> Box<RusticError> {
        let told = RusticError::new(ErrorKind::InputOutput, error.chain());
        self.objects.fail(error);
        told
    }
}

impl ReadSource for DirectorySource {
    type Open = Open;
    type Iter = Walk;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Walk {
        Walk {
            ledger: Arc::clone(&self.ledger),
            description: self.description.clone(),
            stage: Stage::Root(self.root.clone()),
            root: self.root.clone(),
            device: 0,
            stack: Vec::new(),
        }
    }
}

/// The entries, in the order that the engine needs: a directory, then all that is in it, names in the order of their bytes.
pub(crate) struct Walk {
    ledger: Arc<Ledger>,
    description: Bytes,
    stage: Stage,
    root: PathBuf,
    device: u64,
    /// What is still to be visited of each open directory, in reverse.
    stack: Vec<Vec<PathBuf>>,
}

enum Stage {
    Root(PathBuf),
    Data,
    Meta,
    Description,
    Manifest,
    End,
}

type Item = RusticResult<ReadSourceEntry<Open>>;

impl Iterator for Walk {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.ledger.objects.failed() {
            return None; // the snapshot will be refused: there is no point in reading on
        }
        match std::mem::replace(&mut self.stage, Stage::End) {
            Stage::Root(root) => {
                self.stage = Stage::Data;
                Some(self.root(&root).map_err(|error| self.ledger.fail(error)))
            }
            Stage::Data => {
                while let Some(path) = self.stack.last_mut().map(Vec::pop) {
                    let Some(path) = path else {
                        self.stack.pop();
                        continue;
                    };
                    match self.visit(&path) {
                        Ok(None) => {}
                        Ok(Some(entry)) => {
                            self.stage = Stage::Data;
                            return Some(Ok(entry));
                        }
                        Err(error) => return Some(Err(self.ledger.fail(error))),
                    }
                }
                self.stage = Stage::Meta;
                self.next()
            }
            Stage::Meta => {
                self.stage = Stage::Description;
                let path = Path::new(MANIFEST_PATH).parent().unwrap_or(Path::new("/")).to_owned();
                let mode = Some(0o700 | GO_DIRECTORY);
                let meta = NodeMetadata { mode, uid: Some(0), gid: Some(0), ..NodeMetadata::default() };
                Some(Ok(entry(path, NodeType::Dir, meta, None)))
            }
            Stage::Description => {
                self.stage = Stage::Manifest;
                Some(Ok(self.document(DESCRIPTION_PATH, self.description.clone())))
            }
            // The engine has taken every file of the directory by now (it looks ahead by one entry, which is the description)
            // and works on them in threads of its own, so waiting for them here holds up none of them.
            Stage::Manifest => {
                let manifest = self.ledger.manifest();
                if self.ledger.objects.failed() {
                    return None;
                }
                match serde_json::to_vec(&manifest) {
                    Ok(content) => Some(Ok(self.document(MANIFEST_PATH, content.into()))),
                    Err(error) => {
                        let error = BackupError::Engine(format!("the manifest could not be written: {error}"));
                        Some(Err(self.ledger.fail(error)))
                    }
                }
            }
            Stage::End => None,
        }
    }
}

impl Walk {
    fn root(&mut self, root: &Path) -> Result<ReadSourceEntry<Open>, BackupError> {
        let status = std::fs::metadata(root).map_err(|error| BackupError::file(root, error))?;
        if !status.is_dir() {
            return Err(BackupError::Usage(format!("{} is no directory", root.display())));
        }
        self.device = status.dev();
        self.descend(root)?;
        self.directory(root, &status)
    }

    fn visit(&mut self, path: &Path) -> Result<Option<ReadSourceEntry<Open>>, BackupError> {
        let status = match std::fs::symlink_metadata(path) {
            Ok(status) => status,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(self.leave_out(path, SkipReason::Vanished));
            }
            Err(error) => return Err(BackupError::file(path, error)),
        };
        let kind = status.file_type();
        if status.dev() != self.device {
            return Ok(self.leave_out(path, SkipReason::OtherFileSystem));
        }
        if kind.is_dir() {
            match self.descend(path) {
                Err(BackupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(self.leave_out(path, SkipReason::Vanished));
                }
                result => result?,
            }
            return self.directory(path, &status).map(Some);
        }
        if kind.is_file() {
            return self.file(path, &status).map(Some);
        }
        if kind.is_symlink() {
            return self.symlink(path, &status);
        }
        let reason = match kind {
            kind if kind.is_socket() => SkipReason::Socket,
            kind if kind.is_fifo() => SkipReason::Pipe,
            _ => SkipReason::Device,
        };
        Ok(self.leave_out(path, reason))
    }

    /// Reads a directory's names; they are visited next.
    fn descend(&mut self, path: &Path) -> Result<(), BackupError> {
        let failed = |error| BackupError::file(path, error);
        let mut names = Vec::new();
        for found in std::fs::read_dir(path).map_err(failed)? {
            names.push(found.map_err(failed)?.file_name());
        }
        names.sort_unstable_by(|one, other| other.as_bytes().cmp(one.as_bytes()));
        self.stack.push(names.into_iter().map(|name| path.join(name)).collect());
        Ok(())
    }

    fn leave_out(&self, path: &Path, reason: SkipReason) -> Option<ReadSourceEntry<Open>> {
        self.ledger.state().skipped.push(Skipped { path: self.below(path), reason });
        None
    }

    fn below(&self, path: &Path) -> RawPath {
        RawPath::from(path.strip_prefix(&self.root).unwrap_or(path))
    }

    fn directory(&self, path: &Path, status: &Metadata) -> Result<ReadSourceEntry<Open>, BackupError> {
        let found = self.entry(path, status, EntryKind::Directory)?;
        let meta = NodeMetadata { size: 0, ..self.node_metadata(&found, status)? };
        let inside = inside(&found.path);
        self.ledger.state().entries.push(Some(found));
        Ok(entry(inside, NodeType::Dir, meta, None))
    }

    fn symlink(&self, path: &Path, status: &Metadata) -> Result<Option<ReadSourceEntry<Open>>, BackupError> {
        let target = match std::fs::read_link(path) {
            Ok(target) => target,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(self.leave_out(path, SkipReason::Vanished));
            }
            Err(error) => return Err(BackupError::file(path, error)),
        };
        let found = self.entry(path, status, EntryKind::Symlink { target: target.as_path().into() })?;
        let meta = self.node_metadata(&found, status)?;
        let inside = inside(&found.path);
        self.ledger.state().entries.push(Some(found));
        Ok(Some(entry(inside, NodeType::from_link(&target), meta, None)))
    }

    fn file(&self, path: &Path, status: &Metadata) -> Result<ReadSourceEntry<Open>, BackupError> {
        let kind = EntryKind::File { size_bytes: status.len(), sha256: String::new() };
        let found = self.entry(path, status, kind)?;
        let meta = self.node_metadata(&found, status)?;
        let inside = inside(&found.path);
        let mut state = self.ledger.state();
        let position = state.entries.len();
        state.entries.push(None);
        state.unsettled += 1;
        drop(state);
        let pending = Pending {
            ledger: Arc::clone(&self.ledger),
            path: path.to_owned(),
            device: self.device,
            status: Stamp::of(status),
            position,
            entry: Some(found),
        };
        Ok(entry(inside, NodeType::File, meta, Some(Open::File(Box::new(pending)))))
    }

    fn entry(&self, path: &Path, status: &Metadata, kind: EntryKind) -> Result<Entry, BackupError> {
        let modified_at = timestamp(status.mtime(), status.mtime_nsec())
            .ok_or_else(|| BackupError::Engine(format!("{}: its time cannot be told", path.display())))?;
        Ok(Entry {
            path: self.below(path),
            kind,
            mode: status.permissions().mode() & 0o7777,
            uid: status.uid(),
            gid: status.gid(),
            modified_at,
            xattrs: read_xattrs(path)?,
        })
    }

    fn node_metadata(&self, entry: &Entry, status: &Metadata) -> Result<NodeMetadata, BackupError> {
        // A young file is given the time of this run, which no other run gives it: the next one reads it.
        let changed_at = timestamp(status.ctime(), status.ctime_nsec())
            .map(|at| if self.ledger.started_at.duration_since(at) < YOUNG { self.ledger.started_at } else { at });
        // The engine's type for an attribute has no name outside of it, but it has a form in JSON.
        let attributes: Vec<_> =
            entry.xattrs.iter().map(|(name, value)| serde_json::json!({ "name": name, "value": value })).collect();
        let extended_attributes = serde_json::from_value(attributes.into())
            .map_err(|error| BackupError::Engine(format!("{}: its attributes: {error}", entry.path)))?;
        Ok(NodeMetadata {
            mode: Some(go_mode(status)),
            mtime: Some(entry.modified_at),
            atime: Some(entry.modified_at),
            ctime: changed_at,
            uid: Some(entry.uid),
            gid: Some(entry.gid),
            inode: status.ino(),
            size: status.len(),
            links: 1,
            extended_attributes,
            ..NodeMetadata::default()
        })
    }

    fn document(&self, path: &str, content: Bytes) -> ReadSourceEntry<Open> {
        let meta = NodeMetadata {
            mode: Some(0o600),
            uid: Some(0),
            gid: Some(0),
            mtime: Some(self.ledger.started_at),
            ctime: Some(now()),
            size: content.len() as u64,
            links: 1,
            ..NodeMetadata::default()
        };
        entry(PathBuf::from(path), NodeType::File, meta, Some(Open::Document(content)))
    }
}

/// How a file is opened: only if the engine does not find it unchanged.
pub(crate) enum Open {
    File(Box<Pending>),
    Document(Bytes),
}

/// A file that the engine has been told of and that is not settled: dropped without having been opened, it is unchanged.
pub(crate) struct Pending {
    ledger: Arc<Ledger>,
    path: PathBuf,
    device: u64,
    status: Stamp,
    position: usize,
    /// None once it has been settled.
    entry: Option<Entry>,
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(status: &Metadata) -> Self {
        Self {
            inode: status.ino(),
            size: status.len(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        }
    }
}

impl ReadSourceOpen for Open {
    type Reader = Reader;

    fn open(self) -> RusticResult<Reader> {
        match self {
            Self::Document(content) => Ok(Reader::Document(Cursor::new(content))),
            Self::File(pending) => pending.open().map(|file| Reader::File(Box::new(file))),
        }
    }
}

impl Pending {
    fn open(mut self: Box<Self>) -> RusticResult<HashingFile> {
        // A path that has become a link since it was listed is not followed, nor is one that leads elsewhere.
        let options = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = File::options().read(true).custom_flags(options.bits()).open(&self.path);
        let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
        let gone = |error: &std::io::Error| {
            let link = error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32);
            link || error.kind() == std::io::ErrorKind::NotFound
        };
        match opened {
            Ok((status, file)) if status.is_file() && status.dev() == self.device => {
                let left = self.status.size;
                Ok(HashingFile { file, left, read: 0, hash: Sha256::new(), ended: false, pending: *self })
            }
            Err(error) if !gone(&error) => {
                self.entry = None;
                let told = self.ledger.fail(BackupError::file(&self.path, error));
                self.ledger.settle(|_| {});
                Err(told)
            }
            // Gone, or no longer a file: it is left out, and the manifest says so.
            _ => {
                if let Some(entry) = self.entry.take() {
                    let skipped = Skipped { path: entry.path, reason: SkipReason::Vanished };
                    self.ledger.settle(|state| state.skipped.push(skipped));
                }
                Err(RusticError::new(ErrorKind::InputOutput, format!("{}: it is gone", self.path.display())))
            }
        }
    }

    fn read_to_the_end(&mut self, size: u64, hash: String, changed: bool) {
        let Some(mut entry) = self.entry.take() else { return };
        entry.kind = EntryKind::File { size_bytes: size, sha256: hash };
        let position = self.position;
        self.ledger.settle(|state| {
            if changed {
                state.changed.push(entry.path.clone());
            }
            state.entries[position] = Some(entry);
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        let position = self.position;
        match self.ledger.known.get(&entry.path) {
            Some((size, hash)) if *size == self.status.size => {
                entry.kind = EntryKind::File { size_bytes: *size, sha256: hash.clone() };
                self.ledger.settle(|state| {
                    state.unchanged_files += 1;
                    state.entries[position] = Some(entry);
                });
            }
            _ => {
                let reason = "it was neither read nor is it in the manifest before".to_owned();
                let told = BackupError::Corrupt { object: entry.path.to_string(), reason };
                self.ledger.objects.fail(told);
                self.ledger.settle(|_| {});
            }
        }
    }
}

/// What the engine reads from.
pub(crate) enum Reader {
    File(Box<HashingFile>),
    Document(Cursor<Bytes>),
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Document(content) => content.read(buffer),
        }
    }
}

/// A file that is hashed as it is read, up to the size that it had when it was listed.
pub(crate) struct HashingFile {
    file: File,
    left: u64,
    read: u64,
    hash: Sha256,
    ended: bool,
    pending: Pending,
}

impl Read for HashingFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 && !buffer.is_empty() {
            self.end()?;
            return Ok(0);
        }
        let count = match self.file.read(&mut buffer[..most]) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                let copy = std::io::Error::from(error.kind());
                self.pending.ledger.objects.fail(BackupError::file(&self.pending.path, error));
                return Err(copy);
            }
            result => result?,
        };
        self.hash.update(&buffer[..count]);
        self.left -= count as u64;
        self.read += count as u64;
        if count == 0 && most > 0 {
            self.left = 0;
            self.end()?;
        }
        Ok(count)
    }
}

impl HashingFile {
    fn end(&mut self) -> std::io::Result<()> {
        if !std::mem::replace(&mut self.ended, true) {
            let changed = Stamp::of(&self.file.metadata()?) != self.pending.status;
            let hash = hex::encode(std::mem::take(&mut self.hash).finalize());
            self.pending.read_to_the_end(self.read, hash, changed);
        }
        Ok(())
    }
}

impl Drop for HashingFile {
    fn drop(&mut self) {
        if let Some(entry) = self.pending.entry.take() {
            let reason = "the engine did not read it to its end".to_owned();
            self.pending.ledger.objects.fail(BackupError::Corrupt { object: entry.path.to_string(), reason });
            self.pending.ledger.settle(|_| {});
        }
    }
}

fn entry(path: PathBuf, kind: NodeType, meta: NodeMetadata, open: Option<Open>) -> ReadSourceEntry<Open> {
    let node = Node::new_node(path.file_name().unwrap_or_default(), kind, meta);
    ReadSourceEntry { path, node, open }
}

/// The path inside the snapshot.
pub(crate) fn inside(path: &RawPath) -> PathBuf {
    // Joining an empty path would add a slash.
    if path.0.is_empty() { PathBuf::from(DATA_PATH) } else { Path::new(DATA_PATH).join(path.as_path()) }
}

fn timestamp(seconds: i64, nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

/// The attributes of a file itself, not of what it points to.
pub(crate) fn read_xattrs(path: &Path) -> Result<BTreeMap<String, String>, BackupError> {
    let mut found = BTreeMap::new();
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::Unsupported | std::io::ErrorKind::NotFound) => {
            return Ok(found);
        }
        Err(error) => return Err(BackupError::file(path, error)),
    };
    for name in names {
        let Some(text) = name.to_str() else {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "an attribute's name is not UTF-8");
            return Err(BackupError::file(path, error));
        };
        if let Some(value) = xattr::get(path, &name).map_err(|error| BackupError::file(path, error))? {
            found.insert(text.to_owned(), STANDARD.encode(value));
        }
    }
    Ok(found)
}

/// Go's bit for a directory: <https://pkg.go.dev/io/fs#FileMode>. Restic's format has Go's modes.
const GO_DIRECTORY: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_STICKY: u32 = 1 << 20;

fn go_mode(status: &Metadata) -> u32 {
    let mode = status.permissions().mode();
    let bits = [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)];
    let mut go = mode & 0o777;
    for (unix, bit) in bits {
        if mode & unix != 0 {
            go |= bit;
        }
    }
    if status.is_dir() {
        go |= GO_DIRECTORY;
    } else if status.is_symlink() {
        go |= GO_SYMLINK;
    }
    go
}
