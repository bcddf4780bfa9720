//! A repository and what every command does first: the lock, the key, the index.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::ObjectStore;
use rustic_core::repofile::{MasterKey, Node, SnapshotFile};
use rustic_core::{
    ConfigOptions, Credentials, FileType, IndexedFull, IndexedFullStatus, KeyOptions, OpenStatus, Repository,
    RepositoryBackends, RepositoryOptions,
};
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;

use crate::error::BackupError;
use crate::keys::{Keys, key_objects, unlock, write_key};
use crate::lock::{Lock, LockSettings};
use crate::manifest::{DESCRIPTION_PATH, MANIFEST_PATH, Manifest};
use crate::report::{InitReport, ListReport, RekeyReport, SnapshotView};
use crate::store::Objects;

/// The average size of a chunk: small enough that a changed page does not cost a megabyte.
const CHUNK_BYTES: u64 = 128 << 10;
/// No chunk but a file's last is smaller.
const CHUNK_MINIMUM_BYTES: u64 = 32 << 10;
/// No chunk is larger.
const CHUNK_MAXIMUM_BYTES: u64 = 1 << 20;
/// Chunks are written together in packs of this size, and several packs are in memory at a time.
const PACK_BYTES: u64 = 8 << 20;
/// The same for packs of directories.
const TREE_PACK_BYTES: u64 = 4 << 20;
/// zstd's level.
const COMPRESSION_LEVEL: i32 = 1;

/// One repository of a store, and what opens it.
#[derive(Debug, Clone)]
pub struct Backups {
    store: Arc<dyn ObjectStore>,
    name: String,
    keys: Keys,
    lock: LockSettings,
    handle: Handle,
}

/// A repository at work: nobody else is until it is dropped.
pub(crate) struct Session<S> {
    pub(crate) repository: Repository<S>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) key: String,
    /// None where only reading is done that needs no protection.
    lock: Option<Lock>,
}

impl Backups {
    /// The repository of this name. Its methods block, so they must be called from outside of the runtime.
    ///
    /// # Errors
    /// [`BackupError::Usage`] where the name is none: lower-case letters, digits, `-`, `_`, in parts between `/`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        name: &str,
        keys: Keys,
        lock: LockSettings,
        handle: Handle,
    ) -> Result<Self, BackupError> {
        let good = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
        };
        if name.len() > 200 || !name.split('/').all(good) {
            return Err(BackupError::Usage(format!("{name:?} is no name of a repository")));
        }
        Ok(Self { store, name: name.to_owned(), keys, lock, handle })
    }

    /// The repository's name, which is its prefix in the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What opens it.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    fn objects(&self) -> Arc<Objects> {
        Arc::new(Objects::new(Arc::clone(&self.store), self.name.clone(), self.handle.clone()))
    }

    /// Makes the repository, if it is not there. One that is there must open.
    ///
    /// # Errors
    /// As every command; [`BackupError::Usage`] where the store writes over what must not be there yet.
    pub fn init(&self) -> Result<InitReport, BackupError> {
        let objects = self.objects();
        let lock = Lock::take(&objects, "init", &self.lock)?;
        if !objects.list_kind(FileType::Config)?.is_empty() {
            let session = self.open(objects, Some(lock))?;
            return Ok(InitReport { created: false, key: session.key });
        }
        lock.prove(&objects)?;
        // A key without a configuration is what a run left that was killed between the two: it opens nothing.
        for (id, _) in objects.list_kind(FileType::Key)? {
            objects.remove_kind(FileType::Key, &id)?;
        }
        let (id, password) = self.keys.passwords(&self.name)?.swap_remove(0);
        let master = MasterKey::new();
        write_key(&objects, &master, &id, &password)?;
        let result = engine(&objects).and_then(|repository| {
            repository.init(&Credentials::Masterkey(master), &KeyOptions::default(), &configuration())
        });
        objects.settle("init", result)?;
        drop(lock);
        Ok(InitReport { created: true, key: id })
    }

    fn open(&self, objects: Arc<Objects>, lock: Option<Lock>) -> Result<Session<OpenStatus>, BackupError> {
        if objects.list_kind(FileType::Config)?.is_empty() {
            return Err(BackupError::NoRepository(self.name.clone()));
        }
        let (key, password) = unlock(&objects, &key_objects(&objects)?, &self.keys.passwords(&self.name)?)?;
        let credentials = Credentials::password(password.expose_secret());
        let result = engine(&objects).and_then(|repository| repository.open(&credentials));
        if let Some(fault) = objects.take_fault() {
            return Err(fault);
        }
        // The keys are proven, so what cannot be read is the configuration: the one object that has no hash for a name.
        let repository = result.map_err(|error| BackupError::Corrupt {
            object: objects.path("config").to_string(),
            reason: error.display_log(),
        })?;
        Ok(Session { repository, objects, key, lock })
    }

    /// Takes the lock and opens the repository with its index.
    pub(crate) fn session(&self, command: &str) -> Result<Session<IndexedFullStatus>, BackupError> {
        let objects = self.objects();
        let lock = Lock::take(&objects, command, &self.lock)?;
        self.open(objects, Some(lock))?.indexed()
    }

    /// Takes the lock and opens the repository without its index.
    pub(crate) fn session_unindexed(&self, command: &str) -> Result<Session<OpenStatus>, BackupError> {
        let objects = self.objects();
        let lock = Lock::take(&objects, command, &self.lock)?;
        self.open(objects, Some(lock))
    }

    /// The snapshots, the newest first. Takes no lock.
    ///
    /// # Errors
    /// As every command.
    pub fn list(&self) -> Result<ListReport, BackupError> {
        let session = self.open(self.objects(), None)?.indexed()?;
        Ok(ListReport { snapshots: session.views()? })
    }

    /// The manifest of the snapshot whose id begins so, or of the newest that counts. Takes no lock.
    ///
    /// # Errors
    /// As every command.
    pub fn manifest(&self, snapshot: Option<&str>) -> Result<Manifest, BackupError> {
        let session = self.open(self.objects(), None)?.indexed()?;
        session.manifest(&session.snapshot(snapshot)?)
    }

    /// All snapshots, the newest first, with the descriptions that they were saved with, where those can be read. Takes no
    /// lock.
    ///
    /// # Errors
    /// As every command.
    pub fn list_described(&self) -> Result<Vec<(SnapshotView, Option<String>)>, BackupError> {
        let session = self.open(self.objects(), None)?.indexed()?;
        let describe = |snapshot: &SnapshotFile| match session.document(snapshot, DESCRIPTION_PATH) {
            Ok(content) => String::from_utf8(content.into()).ok(),
            Err(error) => {
                tracing::warn!("{} has no description: {}", snapshot.id.to_hex().as_str(), error.chain());
                None
            }
        };
        session.snapshots()?.iter().map(|snapshot| Ok((session.view(snapshot)?, describe(snapshot)))).collect()
    }

    /// Adds a key object for the newest key and removes those of the others.
    ///
    /// The master key stays, so this locks nobody out who opened the repository with an older key and kept what was inside.
    ///
    /// # Errors
    /// As every command.
    pub fn rekey(&self) -> Result<RekeyReport, BackupError> {
        let session = self.session_unindexed("rekey")?;
        let objects = &session.objects;
        let passwords = self.keys.passwords(&self.name)?;
        let (newest, password) = &passwords[0];
        let found = key_objects(objects)?;
        let added = !found.iter().any(|object| object.key.as_ref() == Some(newest));
        if added {
            write_key(objects, &session.repository.key(), newest, password)?;
        }
        // Nothing is removed before the newest key has opened what is really there.
        let found = key_objects(objects)?;
        let (own, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|object| object.key.as_ref() == Some(newest));
        unlock(objects, &own, std::slice::from_ref(&passwords[0]))?;
        let mut removed = Vec::new();
        for object in others {
            if let Some(key) = object.key {
                if objects.failed() {
                    return Err(objects.take_fault().unwrap_or_else(|| BackupError::LockLost(self.name.clone())));
                }
                objects.remove_kind(FileType::Key, &object.id)?;
                removed.push(key);
            }
        }
        Ok(RekeyReport { key: newest.clone(), added, removed })
    }
}

fn engine(objects: &Arc<Objects>) -> rustic_core::RusticResult<Repository<()>> {
    let backends = RepositoryBackends::new(Arc::clone(objects) as _, None);
    Repository::new(&RepositoryOptions::default().no_cache(true), &backends)
}

fn configuration() -> ConfigOptions {
    let mut options = ConfigOptions::default();
    options.set_chunk_size = Some(bytesize::ByteSize(CHUNK_BYTES));
    options.set_chunk_min_size = Some(bytesize::ByteSize(CHUNK_MINIMUM_BYTES));
    options.set_chunk_max_size = Some(bytesize::ByteSize(CHUNK_MAXIMUM_BYTES));
    options.set_compression = Some(COMPRESSION_LEVEL);
    options.set_datapack_size = Some(bytesize::ByteSize(PACK_BYTES));
    options.set_datapack_growfactor = Some(0);
    options.set_treepack_size = Some(bytesize::ByteSize(TREE_PACK_BYTES));
    options.set_treepack_growfactor = Some(0);
    // Every chunk would be decrypted and unpacked again at once; `verify` reads it from where it is kept.
    options.set_extra_verify = Some(false);
    options
}

impl Session<OpenStatus> {
    pub(crate) fn indexed(self) -> Result<Session<IndexedFullStatus>, BackupError> {
        let Self { repository, objects, key, lock } = self;
        let repository = objects.settle("reading the index", repository.to_indexed())?;
        Ok(Session { repository, objects, key, lock })
    }
}

impl<S: IndexedFull> Session<S> {
    /// All snapshots, the newest first.
    pub(crate) fn snapshots(&self) -> Result<Vec<SnapshotFile>, BackupError> {
        let mut found = self.objects.settle("reading the snapshots", self.repository.get_all_snapshots())?;
        found.sort_by_key(|snapshot| std::cmp::Reverse((time_of(snapshot), snapshot.id)));
        Ok(found)
    }

    /// The snapshot whose id begins so, or the newest one that counts.
    pub(crate) fn snapshot(&self, id: Option<&str>) -> Result<SnapshotFile, BackupError> {
        let found = self.snapshots()?;
        if let Some(id) = id {
            let mut matching = found.into_iter().filter(|snapshot| snapshot.id.to_hex().as_str().starts_with(id));
            return match (matching.next(), matching.next()) {
                (Some(snapshot), None) => Ok(snapshot),
                (None, _) => Err(BackupError::NoSnapshot(id.to_owned())),
                (Some(_), Some(_)) => Err(BackupError::Usage(format!("{id} is the beginning of several ids"))),
            };
        }
        for snapshot in found {
            if self.counts(&snapshot)? {
                return Ok(snapshot);
            }
        }
        Err(BackupError::NoSnapshot(format!("{}: latest", self.objects.name())))
    }

    /// Whether the snapshot has a manifest.
    pub(crate) fn counts(&self, snapshot: &SnapshotFile) -> Result<bool, BackupError> {
        Ok(self.node(snapshot, MANIFEST_PATH)?.is_some())
    }

    /// What is at a path of the snapshot. A directory that cannot be read is an error, and not an empty one.
    pub(crate) fn node(&self, snapshot: &SnapshotFile, path: &str) -> Result<Option<Node>, BackupError> {
        let mut tree = snapshot.tree;
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let result = self.repository.get_tree(&tree);
            if let Some(fault) = self.objects.take_fault() {
                return Err(fault);
            }
            let directory = result.map_err(|error| BackupError::Corrupt {
                object: self.objects.path_of(FileType::Snapshot, &snapshot.id).to_string(),
                reason: format!("a directory of it cannot be read: {}", error.display_log()),
            })?;
            let Some(found) = directory.nodes.into_iter().find(|node| node.name == name) else { return Ok(None) };
            if names.peek().is_none() {
                return Ok(Some(found));
            }
            let Some(subtree) = found.subtree else { return Ok(None) };
            tree = subtree;
        }
        Ok(None)
    }

    /// A document that was saved with the snapshot.
    pub(crate) fn document(&self, snapshot: &SnapshotFile, path: &str) -> Result<Bytes, BackupError> {
        let Some(node) = self.node(snapshot, path)? else {
            return Err(BackupError::NoManifest(snapshot.id.to_hex().as_str().to_owned()));
        };
        let mut content = Vec::new();
        let result = self.repository.dump(&node, &mut content);
        self.objects.settle(path, result)?;
        Ok(content.into())
    }

    /// The snapshot's manifest, checked.
    pub(crate) fn manifest(&self, snapshot: &SnapshotFile) -> Result<Manifest, BackupError> {
        let content = self.document(snapshot, MANIFEST_PATH)?;
        let object = || format!("{}:{MANIFEST_PATH}", snapshot.id.to_hex().as_str());
        let manifest: Manifest = serde_json::from_slice(&content)
            .map_err(|error| BackupError::Corrupt { object: object(), reason: error.to_string() })?;
        manifest.check(self.objects.name()).map_err(|reason| BackupError::Corrupt { object: object(), reason })?;
        Ok(manifest)
    }

    pub(crate) fn views(&self) -> Result<Vec<SnapshotView>, BackupError> {
        self.snapshots()?.into_iter().map(|snapshot| self.view(&snapshot)).collect()
    }

    pub(crate) fn view(&self, snapshot: &SnapshotFile) -> Result<SnapshotView, BackupError> {
        Ok(SnapshotView {
            id: snapshot.id.to_hex().as_str().to_owned(),
            taken_at: time_of(snapshot),
            kind: snapshot.label.clone(),
            complete: self.counts(snapshot)?,
            size_bytes: snapshot.summary.as_ref().map(|summary| summary.total_bytes_processed),
            stored_bytes: snapshot.summary.as_ref().map(|summary| summary.data_added_packed),
        })
    }
}

pub(crate) fn time_of(snapshot: &SnapshotFile) -> Timestamp {
    snapshot.time.timestamp()
}

impl<S> Session<S> {
    /// Bytes in the repository's objects.
    pub(crate) fn stored(&self) -> Result<u64, BackupError> {
        Ok(self.objects.list("")?.iter().map(|object| object.size).sum())
    }
}
