//! Everything read to its end.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;

use rustic_core::repofile::{IndexFile, SnapshotFile};
use rustic_core::{DataId, FileType, IndexedFullStatus};
use sha2::{Digest as _, Sha256};

use crate::database;
use crate::error::BackupError;
use crate::manifest::EntryKind;
use crate::report::VerifyReport;
use crate::repository::{Backups, Session};
use crate::restore::{files, missing};

/// What is verified.
#[derive(Debug, Clone, Default)]
pub struct VerifyRequest {
    /// The snapshot's id or the beginning of it; none is the newest that counts.
    pub snapshot: Option<String>,
    /// Every snapshot that counts.
    pub all: bool,
}

impl Backups {
    /// Reads every object of the repository to its end and compares it with its name, and unpacks every file of a snapshot,
    /// or of all, and compares it with the manifest.
    ///
    /// # Errors
    /// As every command; the object or the file that is to blame is named.
    pub fn verify(&self, request: &VerifyRequest) -> Result<VerifyReport, BackupError> {
        let session = self.session("verify")?;
        let (objects, bytes) = session.verify_objects()?;
        let mut chosen = Vec::new();
        let mut without_manifest = Vec::new();
        for snapshot in session.snapshots()? {
            if !session.counts(&snapshot)? {
                without_manifest.push(snapshot.id.to_hex().as_str().to_owned());
            } else if request.all {
                chosen.push(snapshot);
            }
        }
        if !request.all {
            match session.snapshot(request.snapshot.as_deref()) {
                // A repository without a snapshot is as it should be.
                Err(BackupError::NoSnapshot(_)) if request.snapshot.is_none() => {}
                snapshot => chosen.push(snapshot?),
            }
        }
        let mut known = HashMap::new();
        let mut files = 0;
        for snapshot in &chosen {
            tracing::info!("verifying {}", snapshot.id.to_hex().as_str());
            files += session.verify_snapshot(snapshot, &mut known)?;
        }
        let snapshots = chosen.iter().map(|snapshot| snapshot.id.to_hex().as_str().to_owned()).collect();
        Ok(VerifyReport { objects, bytes, snapshots, files, without_manifest })
    }
}

/// What the content of a file, as a list of chunks, has turned out to be: its size and hash.
type Known = HashMap<Vec<DataId>, (u64, String)>;

impl Session<IndexedFullStatus> {
    fn verify_objects(&self) -> Result<(u64, u64), BackupError> {
        // The configuration was read when the repository was opened.
        let (mut count, mut bytes) = (1, 0);
        for kind in [FileType::Key, FileType::Index, FileType::Snapshot] {
            for (id, _) in self.objects.list_kind(kind)? {
                bytes += self.objects.check(kind, &id)?;
                count += 1;
            }
        }
        // A pack that no index names is what a killed run left; nobody reads it, and `forget` removes it.
        let mut packs = BTreeSet::new();
        let index = self.objects.settle("reading the index", self.repository.stream_files::<IndexFile>())?;
        for file in index {
            let (_, file) = self.objects.settle("reading the index", file)?;
            packs.extend(file.packs.iter().map(|pack| *pack.id));
        }
        for id in packs {
            bytes += self.objects.check(FileType::Pack, &id)?;
            count += 1;
        }
        Ok((count, bytes))
    }

    fn verify_snapshot(&self, snapshot: &SnapshotFile, known: &mut Known) -> Result<u64, BackupError> {
        if snapshot.label == database::KIND {
            return self.verify_set(snapshot);
        }
        let manifest = self.manifest(snapshot)?;
        let nodes = files(self, snapshot)?;
        for entry in &manifest.entries {
            let EntryKind::File { size_bytes, sha256 } = &entry.kind else { continue };
            let node = nodes.get(&entry.path).ok_or_else(|| missing(snapshot, &entry.path))?;
            let content = node.content.clone().unwrap_or_default();
            if !known.contains_key(&content) {
                let mut hashing = Hashing::default();
                let result = self.repository.dump(node, &mut hashing);
                self.objects.settle(&entry.path.to_string(), result)?;
                known.insert(content.clone(), hashing.finish());
            }
            let found = known.get(&content);
            if found.is_none_or(|(size, hash)| (size, hash) != (size_bytes, sha256)) {
                return Err(BackupError::Differs {
                    path: entry.path.to_string(),
                    reason: format!("it is {found:?}, and the manifest says {:?}", (size_bytes, sha256)),
                });
            }
        }
        if nodes.len() as u64 != manifest.totals.files {
            let reason = format!("it has {} files, and its manifest {}", nodes.len(), manifest.totals.files);
            return Err(BackupError::Corrupt { object: snapshot.id.to_hex().as_str().to_owned(), reason });
        }
        Ok(manifest.totals.files)
    }
}

/// A writer that keeps nothing but the size and the SHA-256.
#[derive(Default)]
pub(crate) struct Hashing {
    size: u64,
    hash: Sha256,
}

impl Hashing {
    pub(crate) fn finish(self) -> (u64, String) {
        (self.size, hex::encode(self.hash.finalize()))
    }
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.hash.update(buffer);
        self.size += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
