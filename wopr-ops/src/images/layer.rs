//! Tar archives built in memory: the file system of an image and the context the engine builds from.
//!
//! The same content gives the same bytes: times are zero, owners and modes are said explicitly.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::Path,
};

use anyhow::Context;
use sha2::{Digest, Sha256};

/// Who owns an entry and what may be done with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u64,
    pub(crate) gid: u64,
}

/// Root, the owner of everything that is only read.
pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// A tar archive under construction.
pub(crate) struct Layer {
    archive: tar::Builder<Vec<u8>>,
    seen: BTreeSet<String>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { archive: tar::Builder::new(Vec::new()), seen: BTreeSet::new() }
    }

    /// The layer that such an archive is, to be gone on with.
    ///
    /// # Errors
    /// If it breaks off, or has something in it that a layer of ours never has.
    pub(crate) fn from_archive(archive: &[u8]) -> anyhow::Result<Self> {
        let mut layer = Self::new();
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_str().context("a path is not text")?.trim_end_matches('/').to_owned();
            // An engine writes the kind of the file into its mode as well.
            let (mode, size_bytes) = (entry.header().mode()? & 0o7777, entry.size());
            let owner = Owner { uid: entry.header().uid()?, gid: entry.header().gid()? };
            let target = entry.link_name()?.map(std::borrow::Cow::into_owned);
            match (entry.header().entry_type(), target) {
                (tar::EntryType::Directory, _) => layer.directory(&path, mode, owner)?,
                (tar::EntryType::Regular, _) => layer.stream(&path, mode, owner, size_bytes, &mut entry)?,
                (tar::EntryType::Symlink, Some(target)) => layer.symlink(&path, &target)?,
                (tar::EntryType::Link, Some(target)) => {
                    layer.hard_link(&path, target.to_str().context("a path is not text")?)?;
                }
                (other, _) => anyhow::bail!("{path} is neither file nor directory nor link: {other:?}"),
            }
        }
        Ok(layer)
    }

    /// Whether the path (relative, without a trailing slash) is already there.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.seen.contains(path)
    }

    /// Adds a directory, and its parents as root's; one that is already there stays as it is.
    pub(crate) fn directory(&mut self, path: &str, mode: u32, owner: Owner) -> anyhow::Result<()> {
        self.parents(path)?;
        if self.seen.insert(path.to_owned()) {
            let mut header = header(tar::EntryType::Directory, 0, mode, owner);
            self.archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Ok(())
    }

    /// Adds a file; a second one of the same path replaces the first when the layer is unpacked.
    pub(crate) fn file(&mut self, path: &str, mode: u32, owner: Owner, content: &[u8]) -> anyhow::Result<()> {
        self.parents(path)?;
        self.seen.insert(path.to_owned());
        let mut header = header(tar::EntryType::Regular, content.len() as u64, mode, owner);
        self.archive
            .append_data(&mut header, path, content)
            .with_context(|| format!("{path} does not fit into a layer"))
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &Path) -> anyhow::Result<()> {
        self.parents(path)?;
        self.seen.insert(path.to_owned());
        let mut header = header(tar::EntryType::Symlink, 0, 0o777, ROOT);
        Ok(self.archive.append_link(&mut header, path, target)?)
    }

    /// Adds a hard link to a file of the same layer.
    pub(crate) fn hard_link(&mut self, path: &str, target: &str) -> anyhow::Result<()> {
        self.parents(path)?;
        self.seen.insert(path.to_owned());
        let mut header = header(tar::EntryType::Link, 0, 0o644, ROOT);
        Ok(self.archive.append_link(&mut header, path, target)?)
    }

    /// Adds a file from a stream of known length.
    pub(crate) fn stream(
        &mut self,
        path: &str,
        mode: u32,
        owner: Owner,
        size_bytes: u64,
        content: impl Read,
    ) -> anyhow::Result<()> {
        self.parents(path)?;
        self.seen.insert(path.to_owned());
        let mut header = header(tar::EntryType::Regular, size_bytes, mode, owner);
        Ok(self.archive.append_data(&mut header, path, content)?)
    }

    /// Its size so far, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.archive.get_ref().len()
    }

    /// The finished archive.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<u8>> {
        self.archive.into_inner().context("the layer could not be finished")
    }

    fn parents(&mut self, path: &str) -> anyhow::Result<()> {
        let missing: Vec<String> = path
            .match_indices('/')
            .map(|(end, _)| path[..end].to_owned())
            .filter(|parent| !self.seen.contains(parent))
            .collect();
        for parent in missing {
            self.seen.insert(parent.clone());
            let mut header = header(tar::EntryType::Directory, 0, 0o755, ROOT);
            self.archive.append_data(&mut header, format!("{parent}/"), std::io::empty())?;
        }
        Ok(())
    }
}

fn header(kind: tar::EntryType, size_bytes: u64, mode: u32, owner: Owner) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size_bytes);
    header.set_mode(mode);
    header.set_uid(owner.uid);
    header.set_gid(owner.gid);
    header.set_mtime(0);
    header
}

/// The context the engine builds from: the recipe and the file system it adds.
pub(crate) fn context(dockerfile: &str, rootfs: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut context = Layer::new();
    context.file("Dockerfile", 0o644, ROOT, dockerfile.as_bytes())?;
    context.file("rootfs.tar", 0o644, ROOT, rootfs)?;
    context.finish()
}

/// What an archive holds, in whatever order: kind, mode, owner, target and content of each path.
pub(crate) fn contents(archive: &[u8]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let (path, target) = (entry.path()?.into_owned(), entry.link_name()?.map(std::borrow::Cow::into_owned));
        let header = entry.header();
        let (kind, mode, uid, gid) = (header.entry_type(), header.mode()?, header.uid()?, header.gid()?);
        let content = fingerprint([content.as_slice()]);
        all.insert(path.display().to_string(), format!("{kind:?} {mode:o} {uid}:{gid} {target:?} {content}"));
    }
    Ok(all)
}

/// The first 16 hexadecimal digits of the SHA-256 of the parts, each preceded by its length.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(archive: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            format!(
                "{} {:o} {}:{} {}",
                entry.path().unwrap().display(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.size().unwrap()
            )
        });
        entries.collect()
    }

    fn example() -> Vec<u8> {
        let mut layer = Layer::new();
        layer.directory("data", 0o700, Owner { uid: 1000, gid: 1000 }).unwrap();
        layer.file("usr/bin/wopr-bot", 0o755, ROOT, b"program").unwrap();
        layer.file("usr/bin/other", 0o755, ROOT, b"").unwrap();
        layer.finish().unwrap()
    }

    #[test]
    fn parents_come_first_and_once_and_owners_are_kept() {
        assert_eq!(
            listing(&example()),
            [
                "data/ 700 1000:1000 0",
                "usr/ 755 0:0 0",
                "usr/bin/ 755 0:0 0",
                "usr/bin/wopr-bot 755 0:0 7",
                "usr/bin/other 755 0:0 0",
            ]
        );
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(example(), example());
    }

    #[test]
    fn paths_longer_than_a_tar_header_survive() {
        let path = format!("usr/{}/file", "d".repeat(180));
        let mut layer = Layer::new();
        layer.file(&path, 0o644, ROOT, b"x").unwrap();
        let names = listing(&layer.finish().unwrap());
        assert_eq!(names.last().unwrap(), &format!("{path} 644 0:0 1"));
    }

    #[test]
    fn a_fingerprint_tells_where_one_part_ends() {
        assert_ne!(fingerprint([b"ab".as_slice(), b"c"]), fingerprint([b"a".as_slice(), b"bc"]));
        assert_eq!(fingerprint([b"ab".as_slice()]).len(), 16);
    }
}
