//! A repository's objects in an object store, and the engine's blocking view of them.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig};
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use crate::error::BackupError;

/// How many packs are kept in memory while they are read from: four of at most 9 MiB.
const PACKS_IN_MEMORY: usize = 4;

/// Where objects are kept.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A directory of this machine. Objects are on the disk before a write is said to have succeeded.
    Directory(PathBuf),
    /// A bucket of a service that speaks S3.
    S3(S3Settings),
}

/// A bucket of a service that speaks S3.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The service's address; none is Amazon's for the region.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// The access key.
    pub access_key: SecretString,
    /// The secret key.
    pub secret_key: SecretString,
    /// The bucket is the first part of the path, not of the host's name.
    pub path_style: bool,
    /// An endpoint without TLS is meant, not a slip.
    pub allow_http: bool,
    /// After how long a request that keeps failing is given up.
    pub give_up_after: Duration,
}

impl StoreSettings {
    /// Opens the store; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`BackupError::Usage`] where the settings cannot be meant, [`BackupError::File`] where the directory cannot be made.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>, BackupError> {
        match self {
            Self::Directory(path) => {
                std::fs::create_dir_all(path).map_err(|error| BackupError::file(path, error))?;
                let store = LocalFileSystem::new_with_prefix(path)
                    .map_err(|source| BackupError::Store { object: path.display().to_string(), source })?;
                Ok(Arc::new(store.with_fsync(true)))
            }
            Self::S3(settings) => settings.open(),
        }
    }
}

impl S3Settings {
    fn open(&self) -> Result<Arc<dyn ObjectStore>, BackupError> {
        let plain = self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        if plain && !self.allow_http {
            return Err(BackupError::Usage("the endpoint is http://, and that was not asked for".to_owned()));
        }
        let mut builder = AmazonS3Builder::new()
            .with_region(&self.region)
            .with_bucket_name(&self.bucket)
            .with_access_key_id(self.access_key.expose_secret())
            .with_secret_access_key(self.secret_key.expose_secret())
            .with_virtual_hosted_style_request(!self.path_style)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_retry(RetryConfig { max_retries: 8, retry_timeout: self.give_up_after, ..RetryConfig::default() })
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(self.allow_http)
                    .with_connect_timeout(Duration::from_secs(5).min(self.give_up_after))
                    .with_timeout(Duration::from_mins(1).min(self.give_up_after)),
            );
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(|source| BackupError::Usage(source.to_string()))?;
        Ok(Arc::new(store))
    }
}

/// One repository's objects: everything under a prefix of a store.
///
/// The engine calls this from threads of its own and expects answers, not futures. Two promises are kept here and nowhere
/// else. **What is read is what was written**: an object that is named after its SHA-256 is compared with its name before a
/// byte of it is used. **After the first failure nothing more is written**: the engine passes over some errors, so whatever
/// goes wrong is remembered here, and the snapshot, which is written last, is refused.
#[derive(Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    handle: Handle,
    fault: Mutex<Option<BackupError>>,
    failed: std::sync::atomic::AtomicBool,
    packs: Mutex<Packs>,
    traffic: Traffic,
}

/// How many bytes and objects went where.
#[derive(Debug, Default)]
struct Traffic {
    written_bytes: std::sync::atomic::AtomicU64,
    written_objects: std::sync::atomic::AtomicU64,
    read_bytes: std::sync::atomic::AtomicU64,
}

#[derive(Debug, Default)]
struct Packs {
    recent: VecDeque<(Id, Arc<Mutex<Option<Bytes>>>)>,
    proven: HashSet<Id>,
}

impl Objects {
    /// The objects under a prefix. Calls block on this runtime's handle, so they must come from outside of it.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl Into<String>, handle: Handle) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            handle,
            fault: Mutex::default(),
            failed: std::sync::atomic::AtomicBool::new(false),
            packs: Mutex::default(),
            traffic: Traffic::default(),
        }
    }

    /// The repository's name, which is the prefix.
    pub fn name(&self) -> &str {
        &self.prefix
    }

    /// Bytes written so far, as the store has them.
    pub fn written_bytes(&self) -> u64 {
        self.traffic.written_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Objects written so far.
    pub fn written_objects(&self) -> u64 {
        self.traffic.written_objects.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.traffic.read_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Remembers the first thing that went wrong; from now on nothing is written.
    pub(crate) fn fail(&self, error: BackupError) {
        self.failed.store(true, std::sync::atomic::Ordering::SeqCst);
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.is_none() {
            *fault = Some(error);
        }
    }

    /// Whether something went wrong.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Takes what went wrong first, if anything did. Writes stay refused.
    pub(crate) fn take_fault(&self) -> Option<BackupError> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What the engine's answer means: what went wrong here names its object, so it comes first.
    pub(crate) fn settle<T>(&self, what: &str, result: RusticResult<T>) -> Result<T, BackupError> {
        if let Some(fault) = self.take_fault() {
            return Err(fault);
        }
        if self.failed() {
            return Err(BackupError::Engine(format!("{what}: an earlier failure")));
        }
        result.map_err(|error| BackupError::Engine(format!("{what}: {}", error.display_log())))
    }

    pub(crate) fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    pub(crate) fn path_of(&self, kind: FileType, id: &Id) -> Path {
        let hex = id.to_hex();
        let hex = hex.as_str();
        self.path(&match kind {
            FileType::Config => "config".to_owned(),
            FileType::Pack => format!("data/{}/{hex}", &hex[..2]),
            FileType::Index | FileType::Key | FileType::Snapshot => format!("{}/{hex}", kind.dirname()),
        })
    }

    pub(crate) fn get(&self, path: &Path) -> Result<Bytes, BackupError> {
        let bytes = self.handle.block_on(async { self.store.get(path).await?.bytes().await }).map_err(away(path))?;
        self.count_read(&bytes);
        Ok(bytes)
    }

    fn count_read(&self, bytes: &Bytes) {
        self.traffic.read_bytes.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn list(&self, below: &str) -> Result<Vec<object_store::ObjectMeta>, BackupError> {
        let path = self.path(below);
        self.handle.block_on(self.store.list(Some(&path)).try_collect()).map_err(away(&path))
    }

    /// Writes an object that must not be there yet; false if it is.
    pub(crate) fn create(&self, path: &Path, content: Bytes) -> Result<bool, BackupError> {
        let put = self.store.put_opts(path, PutPayload::from(content), PutMode::Create.into());
        match self.handle.block_on(put) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(away(path)(source)),
        }
    }

    /// Writes an object and asks the store how much of it it has.
    pub(crate) fn put(&self, path: &Path, content: PutPayload) -> Result<(), BackupError> {
        let written = content.content_length() as u64;
        let found = self
            .handle
            .block_on(async {
                self.store.put(path, content).await?;
                Ok(self.store.head(path).await?.size)
            })
            .map_err(away(path))?;
        if found != written {
            // What stays of it would be taken for an object of ours.
            self.delete(path)?;
            return Err(BackupError::Truncated { object: path.to_string(), written, found });
        }
        self.traffic.written_bytes.fetch_add(written, std::sync::atomic::Ordering::Relaxed);
        self.traffic.written_objects.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Removes an object; one that is not there is as good as removed.
    pub(crate) fn delete(&self, path: &Path) -> Result<(), BackupError> {
        match self.handle.block_on(self.store.delete(path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(away(path)(source)),
        }
    }

    pub(crate) fn read(&self, kind: FileType, id: &Id) -> Result<Bytes, BackupError> {
        let path = self.path_of(kind, id);
        let bytes = self.get(&path)?;
        if kind != FileType::Config {
            prove(&path, id, &bytes)?;
        }
        Ok(bytes)
    }

    /// A part of an object. A pack is fetched whole when it is first needed, so that its hash can be compared with its name.
    fn read_part(&self, kind: FileType, id: &Id, offset: u32, length: u32) -> Result<Bytes, BackupError> {
        let path = self.path_of(kind, id);
        let (start, end) = (u64::from(offset), u64::from(offset) + u64::from(length));
        if kind != FileType::Pack {
            return cut(&path, &self.read(kind, id)?, start, end);
        }
        let slot = {
            let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(position) = packs.recent.iter().position(|(known, _)| known == id) {
                let found = packs.recent.remove(position);
                packs.recent.extend(found);
                packs.recent.back().map(|(_, slot)| Arc::clone(slot))
            } else if packs.proven.contains(id) {
                None
            } else {
                let slot = Arc::new(Mutex::new(None));
                packs.recent.push_back((*id, Arc::clone(&slot)));
                if packs.recent.len() > PACKS_IN_MEMORY {
                    packs.recent.pop_front();
                }
                Some(slot)
            }
        };
        let Some(slot) = slot else {
            let bytes = self.handle.block_on(self.store.get_range(&path, start..end)).map_err(away(&path))?;
            self.count_read(&bytes);
            return cut(&path, &bytes, 0, u64::from(length));
        };
        let mut content = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let pack = if let Some(pack) = &*content {
            pack.clone()
        } else {
            let pack = self.read(kind, id)?;
            self.packs.lock().unwrap_or_else(PoisonError::into_inner).proven.insert(*id);
            content.insert(pack).clone()
        };
        drop(content);
        cut(&path, &pack, start, end)
    }

    /// Reads an object of the repository to its end and compares it with its name.
    pub(crate) fn check(&self, kind: FileType, id: &Id) -> Result<u64, BackupError> {
        Ok(self.read(kind, id)?.len() as u64)
    }

    pub(crate) fn list_kind(&self, kind: FileType) -> Result<Vec<(Id, u32)>, BackupError> {
        if kind == FileType::Config {
            let path = self.path("config");
            return match self.handle.block_on(self.store.head(&path)) {
                Ok(meta) => Ok(vec![(Id::default(), u32::try_from(meta.size).unwrap_or(u32::MAX))]),
                Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
                Err(source) => Err(away(&path)(source)),
            };
        }
        let mut found = Vec::new();
        for object in self.list(kind.dirname())? {
            // Somebody else's file in the directory is not ours to judge.
            let Some(Ok(id)) = object.location.filename().map(str::parse::<Id>) else { continue };
            found.push((id, u32::try_from(object.size).unwrap_or(u32::MAX)));
        }
        Ok(found)
    }

    /// Writes an object that is named after its content.
    pub(crate) fn write(&self, kind: FileType, id: &Id, content: PutPayload) -> Result<(), BackupError> {
        self.put(&self.path_of(kind, id), content)
    }

    pub(crate) fn remove_kind(&self, kind: FileType, id: &Id) -> Result<(), BackupError> {
        self.delete(&self.path_of(kind, id))
    }

    fn report<T>(&self, result: Result<T, BackupError>) -> RusticResult<T> {
        result.map_err(|error| {
            let told = RusticError::new(ErrorKind::Backend, error.chain());
            self.fail(error);
            told
        })
    }

    fn refuse_after_failure(&self) -> RusticResult<()> {
        if self.failed() {
            return Err(RusticError::new(ErrorKind::Backend, "nothing is written after a failure"));
        }
        Ok(())
    }
}

/// The store's answer about an object, as one of ours.
fn away(path: &Path) -> impl Fn(object_store::Error) -> BackupError {
    let object = path.to_string();
    move |source| match source {
        object_store::Error::NotFound { .. } => BackupError::Missing(object.clone()),
        source if full_disk(&source) => BackupError::DiskFull(PathBuf::from(&object)),
        source => BackupError::Store { object: object.clone(), source },
    }
}

/// Whether a directory that serves as a store is full.
fn full_disk(error: &object_store::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::StorageFull
        {
            return true;
        }
        source = error.source();
    }
    false
}

fn prove(path: &Path, id: &Id, bytes: &Bytes) -> Result<(), BackupError> {
    let found = hex::encode(Sha256::digest(bytes));
    if found == id.to_hex().as_str() {
        return Ok(());
    }
    let reason = format!("its {} bytes have the SHA-256 {found}, which is not its name", bytes.len());
    Err(BackupError::Corrupt { object: path.to_string(), reason })
}

fn cut(path: &Path, bytes: &Bytes, start: u64, end: u64) -> Result<Bytes, BackupError> {
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    match range {
        Some((start, end)) if start <= end && end <= bytes.len() => Ok(bytes.slice(start..end)),
        _ => Err(BackupError::Corrupt {
            object: path.to_string(),
            reason: format!("bytes {start}..{end} are asked of {}", bytes.len()),
        }),
    }
}

impl ReadBackend for Objects {
    fn location(&self) -> String {
        self.prefix.clone()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.report(self.list_kind(kind))
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        self.report(self.read(kind, id))
    }

    fn read_partial(&self, kind: FileType, id: &Id, _: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        self.report(self.read_part(kind, id, offset, length))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        self.path_of(kind, id).to_string()
    }
}

impl WriteBackend for Objects {
    fn write_bytes(&self, kind: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        self.refuse_after_failure()?;
        self.report(self.write(kind, id, content.into_vec().into_iter().collect()))
    }

    fn remove(&self, kind: FileType, id: &Id, _: bool) -> RusticResult<()> {
        self.refuse_after_failure()?;
        self.report(self.remove_kind(kind, id))
    }
}
