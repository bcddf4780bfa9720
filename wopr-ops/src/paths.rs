//! Where things lie: the checkout that is built from, and the user's data directory.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::failure::{Exit, Failure};

/// The directories a command works with.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// The checkout: where the workspace's `Cargo.toml` lies, if this directory is inside one.
    checkout: Option<PathBuf>,
    /// State that outlives a command: secrets, logs, locks. Only its owner may enter it.
    pub(crate) data: PathBuf,
}

impl Paths {
    /// Finds both and creates the data directory, readable by its owner alone.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let data = data_directory(|name| std::env::var_os(name).map(PathBuf::from))?;
        private_directory(&data)?;
        Ok(Self { checkout: checkout()?, data })
    }

    /// Another checkout, with the same data.
    #[must_use]
    pub(crate) fn with_checkout(&self, checkout: PathBuf) -> Self {
        Self { checkout: Some(checkout), ..self.clone() }
    }

    /// The same checkout, with other data.
    #[must_use]
    pub(crate) fn with_data(&self, data: PathBuf) -> Self {
        Self { data, ..self.clone() }
    }

    /// The checkout, which whatever compiles or checks something needs.
    ///
    /// # Errors
    /// Outside a checkout.
    pub(crate) fn workspace(&self) -> anyhow::Result<&Path> {
        self.checkout.as_deref().ok_or_else(|| {
            Failure::new(Exit::Environment, "this directory is not inside a checkout of WOPR")
                .why("neither it nor a directory above it holds wopr-ops/Cargo.toml")
                .fix("change into the checkout and run the command again; `up --bundle FILE` needs none")
                .into()
        })
    }

    /// One directory per machine, shared with it.
    pub(crate) fn machines(&self) -> PathBuf {
        self.data.join("machines")
    }

    /// Images as files.
    pub(crate) fn archives(&self) -> PathBuf {
        self.data.join("cache/images")
    }

    /// Where cargo writes what it builds.
    pub(crate) fn target(&self) -> anyhow::Result<PathBuf> {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(named) => Ok(PathBuf::from(named)),
            None => self.workspace().map(|workspace| workspace.join("target")),
        }
    }
}

/// `WOPR_DATA_DIR`, else `$XDG_DATA_HOME/wopr`, else `~/.local/share/wopr`.
fn data_directory(var: impl Fn(&str) -> Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(named) = var("WOPR_DATA_DIR").filter(|path| path.is_absolute()) {
        return Ok(named);
    }
    if let Some(base) = var("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return Ok(base.join("wopr"));
    }
    let home = var("HOME").filter(|path| path.is_absolute());
    home.map(|home| home.join(".local/share/wopr")).ok_or_else(|| {
        Failure::new(Exit::Environment, "there is no place for the stack's secrets and logs")
            .why("neither XDG_DATA_HOME nor HOME is set to an absolute path")
            .fix("set WOPR_DATA_DIR to a directory of your own")
            .into()
    })
}

/// The directory at or above the current one that holds the workspace.
fn checkout() -> anyhow::Result<Option<PathBuf>> {
    let here = std::env::current_dir().context("the current directory is gone")?;
    let is_ours = |path: &&Path| path.join("wopr-ops/Cargo.toml").is_file() && path.join("Cargo.lock").is_file();
    Ok(here.ancestors().find(is_ours).map(Path::to_path_buf))
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_directory(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Creates the directory and its parents; the last one only its owner may enter.
pub(crate) fn private_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("{} could not be created", path.display()))
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    // The owner of a process's /proc entry is its effective user.
    std::os::unix::fs::MetadataExt::uid(&match fs::metadata("/proc/self") {
        Ok(entry) => entry,
        Err(_) => return false,
    }) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_follows_the_desktop_convention() {
        let home = ("HOME", "/home/ada");
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[home], "/home/ada/.local/share/wopr"),
            (&[("XDG_DATA_HOME", "/data"), home], "/data/wopr"),
            (&[("XDG_DATA_HOME", "relative"), home], "/home/ada/.local/share/wopr"),
            (&[("WOPR_DATA_DIR", "/elsewhere"), home], "/elsewhere"),
        ];
        let find = |vars: &[(&str, &str)]| {
            let var = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            data_directory(var)
        };
        for (vars, expected) in cases {
            assert_eq!(find(vars).unwrap(), Path::new(expected), "{vars:?}");
        }
        assert!(find(&[]).is_err());
    }
}
