//! What was found out about a file, kept until it is another file.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::layer::fingerprint;
use crate::paths::Paths;

/// What is known about one file.
pub(crate) struct Memo {
    /// Changes with the files.
    stamp: String,
    /// Where it is kept.
    kept: PathBuf,
}

impl Memo {
    /// What is known of that kind about the file.
    ///
    /// # Errors
    /// If there is no such file.
    pub(crate) fn of(paths: &Paths, kind: &str, file: &Path) -> anyhow::Result<Self> {
        Self::below(&paths.data.join("cache").join(kind), file)
    }

    fn below(directory: &Path, file: &Path) -> anyhow::Result<Self> {
        let kept = directory.join(fingerprint([file.as_os_str().as_encoded_bytes()]));
        Ok(Self { stamp: stamp(file)?, kept })
    }

    /// The same, forgotten as soon as another file changes as well.
    ///
    /// # Errors
    /// If that cannot be read though it exists.
    pub(crate) fn and(mut self, other: &Path) -> anyhow::Result<Self> {
        if other.try_exists().with_context(|| format!("{} cannot be read", other.display()))? {
            self.stamp = format!("{} {}", self.stamp, stamp(other)?);
        }
        Ok(self)
    }

    /// What was kept, if it was about this very file.
    pub(crate) fn known(&self) -> Option<String> {
        let text = fs::read_to_string(&self.kept).ok()?;
        text.strip_prefix(&self.stamp)?.strip_prefix(' ').map(str::to_owned)
    }

    /// Keeps what was found out.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn keep(&self, text: &str) -> anyhow::Result<()> {
        let directory = self.kept.parent().unwrap_or(&self.kept);
        fs::create_dir_all(directory).with_context(|| format!("{} could not be created", directory.display()))?;
        // Several images have the same libraries: whoever comes second writes the same.
        let draft = self.kept.with_extension(format!("{:08x}", rand::random::<u32>()));
        fs::write(&draft, format!("{} {text}", self.stamp))
            .and_then(|()| fs::rename(&draft, &self.kept))
            .with_context(|| format!("{} cannot be written", self.kept.display()))
    }
}

fn stamp(file: &Path) -> anyhow::Result<String> {
    let metadata = fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(format!("{} {} {}.{}", metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_about_this_very_file() {
        let directory = std::env::temp_dir().join(format!("wopr-memo-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("file");
        fs::write(&file, "one").unwrap();
        let memo = || Memo::below(&directory.join("kept"), &file).unwrap();
        assert_eq!(memo().known(), None);
        memo().keep("a\nb").unwrap();
        assert_eq!(memo().known().as_deref(), Some("a\nb"));
        fs::write(&file, "three").unwrap();
        assert_eq!(memo().known(), None);
        let other = directory.join("other");
        let both = || memo().and(&other).unwrap();
        both().keep("c").unwrap();
        assert_eq!(both().known().as_deref(), Some("c"));
        fs::write(&other, "now it is there").unwrap();
        assert_eq!(both().known(), None);
        fs::remove_file(&file).unwrap();
        assert!(Memo::below(&directory, &file).is_err());
        fs::remove_dir_all(directory).unwrap();
    }
}
