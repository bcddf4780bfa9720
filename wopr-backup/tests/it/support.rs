//! Scratch directories, trees with something of everything, and a store that does what it is told.

use std::fs::Permissions;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::runtime::{Handle, Runtime};
use wopr_backup::keys::Keys;
use wopr_backup::lock::LockSettings;
use wopr_backup::store::StoreSettings;
use wopr_backup::{Backups, RestoreRequest, SaveRequest};

pub(crate) const REPOSITORY: &str = "bots/bot-1";
pub(crate) const RING: &str = r#"{"ring":[{"id":"first","secret":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]}"#;

/// The secret of that ring.
pub(crate) const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

pub(crate) fn handle() -> Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME
        .get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    runtime.handle().clone()
}

/// A directory that is gone when the test is.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("wopr-backup-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A scratch directory with a store, a repository and a tree.
pub(crate) struct Site {
    pub(crate) scratch: Scratch,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) backups: Backups,
}

impl Site {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let store = StoreSettings::Directory(scratch.path("store")).open().unwrap();
        let backups = backups(Arc::clone(&store), RING);
        assert!(backups.init().unwrap().created);
        Self { scratch, store, backups }
    }

    /// One with a tree that has been saved.
    pub(crate) fn saved() -> Self {
        let site = Self::new();
        plant(&site.tree(), 1);
        site.save();
        site
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.scratch.path("tree")
    }

    pub(crate) fn save(&self) -> wopr_backup::report::SaveReport {
        self.backups.save(&request(&self.tree())).unwrap()
    }

    /// The repository's directory.
    pub(crate) fn repository(&self) -> PathBuf {
        self.scratch.path("store").join(REPOSITORY)
    }

    /// Every object of it.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        fn below(path: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { below(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        below(&self.repository(), &mut found);
        found.sort();
        found
    }

    /// The object's name in the store.
    pub(crate) fn name(&self, object: &Path) -> String {
        object.strip_prefix(self.scratch.path("store")).unwrap().display().to_string()
    }

    /// Restores into a new directory and compares it with the tree: that is what a good backup is.
    pub(crate) fn proves(&self, snapshot: Option<&str>, tree: &Path) {
        let target = self.scratch.path("proof");
        self.restore(snapshot, &target).unwrap();
        assert_same(tree, &target);
        std::fs::remove_dir_all(&target).unwrap();
    }

    pub(crate) fn restore(
        &self,
        snapshot: Option<&str>,
        target: &Path,
    ) -> std::result::Result<wopr_backup::report::RestoreReport, wopr_backup::BackupError> {
        self.backups.restore(&RestoreRequest {
            snapshot: snapshot.map(str::to_owned),
            directory: target.to_owned(),
            description: None,
        })
    }

    /// A copy of the repository.
    pub(crate) fn remember(&self) -> PathBuf {
        let copy = self.scratch.path("remembered");
        copy_all(&self.repository(), &copy);
        copy
    }

    /// Makes the repository what it was.
    pub(crate) fn return_to(&self, copy: &Path) {
        std::fs::remove_dir_all(self.repository()).unwrap();
        copy_all(copy, &self.repository());
    }

    /// What the end of the expiry does: the locks are as if nobody had renewed them for long.
    pub(crate) fn expire_locks(&self) {
        let Ok(entries) = std::fs::read_dir(self.repository().join("wopr-locks")) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            let mut lock: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            lock["expires_at"] = "2020-01-01T00:00:00Z".into();
            std::fs::write(&path, lock.to_string()).unwrap();
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_all(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

pub(crate) fn lock() -> LockSettings {
    LockSettings { owner: "a test".to_owned(), expiry: Duration::from_mins(10), wait: Duration::ZERO }
}

pub(crate) fn backups(store: Arc<dyn ObjectStore>, ring: &str) -> Backups {
    Backups::new(store, REPOSITORY, Keys::parse(ring).unwrap(), lock(), handle()).unwrap()
}

pub(crate) fn request(tree: &Path) -> SaveRequest {
    SaveRequest {
        directory: tree.to_owned(),
        kind: "nightly".to_owned(),
        description: Bytes::from_static(br#"{"image":"bot@sha256:0"}"#),
        read_all: false,
    }
}

/// A tree with something of everything, the same for the same seed.
pub(crate) fn plant(root: &Path, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bytes = |count: usize| {
        let mut bytes = vec![0; count];
        random.fill_bytes(&mut bytes);
        bytes
    };
    std::fs::create_dir_all(root.join("deep/er/and deeper")).unwrap();
    std::fs::create_dir(root.join("empty directory")).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::write(root.join("large"), bytes(2_500_000)).unwrap();
    std::fs::write(root.join("text"), "the same line\n".repeat(50_000)).unwrap();
    std::fs::write(root.join("deep/er/and deeper/than"), bytes(700)).unwrap();
    std::fs::write(root.join(".hidden"), bytes(10)).unwrap();
    std::fs::write(root.join("a \"name\" with\nall \\ of it"), "x").unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"not \xff utf-8")), "y").unwrap();
    for number in 0..40 {
        std::fs::write(root.join(format!("deep/{number}.json")), bytes(300 + number)).unwrap();
    }
    symlink("text", root.join("link")).unwrap();
    symlink("/nowhere/at all", root.join("deep/dangling")).unwrap();
    std::fs::set_permissions(root.join("text"), Permissions::from_mode(0o640)).unwrap();
    std::fs::set_permissions(root.join(".hidden"), Permissions::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(root.join("empty directory"), Permissions::from_mode(0o1777)).unwrap();
    if xattr::set(root.join("text"), "user.colour", b"\x00blue").is_err() {
        eprintln!("{} has no extended attributes: they are not tested", root.display());
    }
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(root.join("text"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(77), Some(78)).unwrap();
    }
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    std::fs::File::open(root.join("large")).unwrap().set_modified(old).unwrap();
    std::fs::File::open(root.join("deep/er")).unwrap().set_modified(old).unwrap();
}

/// Everything about a tree that a restore must bring back, in words.
pub(crate) fn describe(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    fn below(root: &Path, path: &Path, found: &mut Vec<String>) {
        let status = std::fs::symlink_metadata(path).unwrap();
        let content = if status.is_symlink() {
            hex::encode(std::fs::read_link(path).unwrap().as_os_str().as_bytes())
        } else if status.is_file() {
            use sha2::Digest as _;
            hex::encode(sha2::Sha256::digest(std::fs::read(path).unwrap()))
        } else {
            String::new()
        };
        let colour = if status.is_symlink() { None } else { xattr::get(path, "user.colour").ok().flatten() };
        found.push(format!(
            "{:?} {:o} {}:{} {}.{:09} {colour:?} {content}",
            path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string(),
            status.mode(),
            status.uid(),
            status.gid(),
            status.mtime(),
            status.mtime_nsec(),
        ));
        if status.is_dir() {
            let mut paths: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths {
                below(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    below(root, root, &mut found);
    found
}

pub(crate) fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (describe(one), describe(other));
    assert!(one.len() > 1);
    assert_eq!(one, other);
}

/// What a [`Wayward`] store does with a call, told by its number, what it is and the object.
pub(crate) type Whim = Box<dyn Fn(usize, Call, &str) -> Deed + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Put,
    Get,
    Delete,
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// As it should be.
    Obey,
    /// Nobody answers.
    Away,
    /// Only half of what is put arrives, and nobody says so.
    Halve,
    /// What must not be there yet is written over.
    Overwrite,
    /// It is held up until the gate is opened.
    Wait,
}

/// A store in front of another, which fails as it is told.
pub(crate) struct Wayward {
    inner: Arc<dyn ObjectStore>,
    whim: Whim,
    calls: AtomicUsize,
    gate: Arc<Gate>,
}

/// Where calls are held up.
#[derive(Default)]
pub(crate) struct Gate {
    /// How many calls wait, and whether they may go on.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        while !state.1 {
            state = self.changed.wait(state).unwrap();
        }
    }

    pub(crate) fn wait_for_someone(&self) {
        let mut state = self.state.lock().unwrap();
        while state.0 == 0 {
            state = self.changed.wait(state).unwrap();
        }
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Wayward {
    pub(crate) fn new(
        inner: &Arc<dyn ObjectStore>,
        whim: impl Fn(usize, Call, &str) -> Deed + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            whim: Box::new(whim),
            calls: AtomicUsize::new(0),
            gate: Arc::default(),
        })
    }

    pub(crate) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    fn ask(&self, call: Call, object: &str) -> Result<Deed> {
        match (self.whim)(self.calls.fetch_add(1, Ordering::SeqCst), call, object) {
            Deed::Away => Err(Error::Generic { store: "Wayward", source: "nobody answers".into() }),
            deed => Ok(deed),
        }
    }

    async fn heed(&self, call: Call, object: &str) -> Result<Deed> {
        let deed = self.ask(call, object)?;
        if deed == Deed::Wait {
            let gate = self.gate();
            tokio::task::spawn_blocking(move || gate.pass()).await.unwrap();
        }
        Ok(deed)
    }
}

impl std::fmt::Debug for Wayward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wayward")
    }
}

impl std::fmt::Display for Wayward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wayward")
    }
}

#[async_trait]
impl ObjectStore for Wayward {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (payload, options) = match self.heed(Call::Put, location.as_ref()).await? {
            Deed::Halve => {
                let whole: Vec<u8> = payload.iter().flat_map(|bytes| bytes.to_vec()).collect();
                (PutPayload::from(whole[..whole.len() / 2].to_vec()), options)
            }
            Deed::Overwrite => (payload, PutOptions::default()),
            _ => (payload, options),
        };
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.heed(Call::Put, location.as_ref()).await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.heed(Call::Get, location.as_ref()).await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &ObjectPath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.heed(Call::Get, location.as_ref()).await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        match self.ask(Call::Delete, "") {
            Ok(_) => self.inner.delete_stream(locations),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.ask(Call::List, prefix.map_or("", |prefix| prefix.as_ref())) {
            Ok(_) => self.inner.list(prefix),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.heed(Call::List, prefix.map_or("", |prefix| prefix.as_ref())).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.heed(Call::Put, to.as_ref()).await?;
        self.inner.copy_opts(from, to, options).await
    }
}
