//! What a snapshot holds, file by file: the document without which a snapshot does not count.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The manifest's path inside a snapshot.
pub const MANIFEST_PATH: &str = "/wopr/manifest.json";
/// The path of the description that was given with a snapshot.
pub const DESCRIPTION_PATH: &str = "/wopr/description.json";
/// The path below which a saved directory is.
pub const DATA_PATH: &str = "/data";
/// The form of manifest that this version writes, and the only one it reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// What a snapshot of a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The repository's name, so that a manifest cannot be taken for another one's.
    pub repository: String,
    /// When reading began.
    pub started_at: Timestamp,
    /// When the last file had been read.
    pub read_at: Timestamp,
    /// Sums over the entries.
    pub totals: Totals,
    /// Files that were written to while they were read: their bytes are of no single instant.
    pub changed_while_read: Vec<RawPath>,
    /// What was found and not saved.
    pub skipped: Vec<Skipped>,
    /// Everything that was saved: a directory before what is in it, names in the order of their bytes.
    pub entries: Vec<Entry>,
}

/// Sums over a manifest's entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories, with the saved one itself.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes in the regular files.
    pub bytes: u64,
}

/// Something that was found and not saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// Where it was.
    pub path: RawPath,
    /// Why it was not saved.
    pub reason: SkipReason,
}

/// Why something is not saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A socket means nothing without its process.
    Socket,
    /// A pipe means nothing without its processes.
    Pipe,
    /// A device is the machine's, not the data's.
    Device,
    /// Another file system is mounted there.
    OtherFileSystem,
    /// It was gone before it could be read.
    Vanished,
}

/// A file, a directory or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path below the saved directory; empty for that directory itself.
    pub path: RawPath,
    /// What it is.
    #[serde(flatten)]
    pub kind: EntryKind,
    /// Permission bits, set-id bits and the sticky bit.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// When its content last changed.
    pub modified_at: Timestamp,
    /// Extended attributes, their values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// How many bytes were read of it.
        size_bytes: u64,
        /// The SHA-256 of those bytes, in hex.
        sha256: String,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: RawPath,
    },
}

/// A path as the system has it: any bytes but zero. In JSON it is a string where it is UTF-8, else `{"base64": …}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RawPath(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a path")]
enum RawPathDocument<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes { base64: String },
}

impl RawPath {
    /// The path as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<&Path> for RawPath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl std::fmt::Display for RawPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.as_path().display())
    }
}

impl Serialize for RawPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => RawPathDocument::Text(text.into()).serialize(serializer),
            Err(_) => RawPathDocument::Bytes { base64: STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match RawPathDocument::deserialize(deserializer)? {
            RawPathDocument::Text(text) => Ok(Self(text.into_owned().into_bytes())),
            RawPathDocument::Bytes { base64 } => STANDARD.decode(base64).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl Totals {
    /// The sums over these entries.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut totals = Self::default();
        for entry in entries {
            match &entry.kind {
                EntryKind::Directory => totals.directories += 1,
                EntryKind::Symlink { .. } => totals.symlinks += 1,
                EntryKind::File { size_bytes, .. } => {
                    totals.files += 1;
                    totals.bytes += size_bytes;
                }
            }
        }
        totals
    }
}

impl Manifest {
    /// Whether a restore may be made of it: it is of a known form, of this repository, agrees with itself, and names no
    /// path that leads out of the directory it is restored into.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn check(&self, repository: &str) -> Result<(), String> {
        if self.format != MANIFEST_FORMAT {
            return Err(format!("its format is {}, not {MANIFEST_FORMAT}", self.format));
        }
        if self.repository != repository {
            return Err(format!("it is the manifest of {}", self.repository));
        }
        if self.totals != Totals::of(&self.entries) {
            return Err("its totals are not those of its entries".to_owned());
        }
        let mut seen = std::collections::HashMap::new();
        for (position, entry) in self.entries.iter().enumerate() {
            let path = entry.path.as_path();
            let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if !plain || (entry.path.0.is_empty() != (position == 0)) {
                return Err(format!("{:?} is no path below the directory", entry.path.to_string()));
            }
            let directory = matches!(entry.kind, EntryKind::Directory);
            let inside = position == 0 || path.parent().is_some_and(|parent| seen.get(parent) == Some(&true));
            if !inside || (position == 0 && !directory) {
                return Err(format!("{:?} is in no directory", entry.path.to_string()));
            }
            if seen.insert(path, directory).is_some() {
                return Err(format!("{:?} is there twice", entry.path.to_string()));
            }
        }
        if self.entries.is_empty() {
            return Err("it has no entry".to_owned());
        }
        Ok(())
    }
}
