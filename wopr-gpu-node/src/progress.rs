//! How far the enrolment has got, kept in a file so that a restart goes on and never back.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wopr_core::protocol::gpu::Stage;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    node_id: String,
    stage: Stage,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Progress {
    path: PathBuf,
    node_id: String,
}

impl Progress {
    pub(crate) fn new(path: &Path, node_id: &str) -> Self {
        Self { path: path.to_owned(), node_id: node_id.to_owned() }
    }

    /// The last stage that the platform took. Another node's file counts for nothing.
    pub(crate) fn load(&self) -> Option<Stage> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("{} cannot be read, so the enrolment begins anew: {error}", self.path.display());
                return None;
            }
        };
        match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) if kept.node_id == self.node_id => Some(kept.stage),
            Ok(kept) => {
                tracing::warn!("{} is of node {}, so the enrolment begins anew", self.path.display(), kept.node_id);
                None
            }
            Err(error) => {
                tracing::warn!("{} makes no sense, so the enrolment begins anew: {error}", self.path.display());
                None
            }
        }
    }

    /// Keeps a stage that the platform took: whole or not at all, also when the machine stops meanwhile.
    pub(crate) fn save(&self, stage: Stage) -> io::Result<()> {
        let kept = serde_json::to_vec(&Kept { node_id: self.node_id.clone(), stage })?;
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&kept)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_again_by_the_same_node_only() {
        let folder = std::env::temp_dir().join(format!("wopr-gpu-node-progress-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state.json");
        let progress = Progress::new(&path, "gpu-1");
        assert_eq!(progress.load(), None);
        progress.save(Stage::StartingServices).unwrap();
        assert_eq!(Progress::new(&path, "gpu-1").load(), Some(Stage::StartingServices));
        assert_eq!(Progress::new(&path, "gpu-2").load(), None);
        fs::write(&path, "{\"node_id\":\"gpu-1\",\"sta").unwrap();
        assert_eq!(progress.load(), None);
        assert!(Progress::new(&folder.join("no/such/folder"), "gpu-1").save(Stage::Done).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
