//! The stack's secrets: made once, kept in files only their owner can read, handed over as files, never shown.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::Context;
use rand::RngCore;

use crate::{
    failure::{Exit, Failure},
    images::layer::fingerprint,
    paths::private_directory,
};

/// What a secret looks like: a prefix, then lower-case hexadecimal digits of so many random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    prefix: &'static str,
    bytes: usize,
}

impl Shape {
    fn generate(self) -> String {
        let mut bytes = vec![0; self.bytes];
        rand::rng().fill_bytes(&mut bytes);
        format!("{}{}", self.prefix, hex::encode(bytes))
    }

    /// What is wrong with the value, without a word of it.
    fn problem(self, value: &str) -> Option<String> {
        let Some(rest) = value.strip_prefix(self.prefix) else {
            return Some(format!("it does not start with `{}`", self.prefix));
        };
        if rest.len() != 2 * self.bytes {
            return Some(format!(
                "it is {} characters long instead of {}",
                value.len(),
                self.prefix.len() + 2 * self.bytes
            ));
        }
        let hexadecimal = rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (!hexadecimal).then(|| "it has characters other than 0-9 and a-f after its prefix".to_owned())
    }
}

const HEX32: Shape = Shape { prefix: "", bytes: 32 };

/// Every secret that is made, by the name the programs know it under.
const INVENTORY: [(&str, Shape); 12] = [
    ("ARCHIVE_PASSPHRASE", HEX32),
    // A name and a secret in base64, which these digits are as well.
    ("BACKUP_ENCRYPTION_KEY", Shape { prefix: "k1:", bytes: 32 }),
    ("BETTER_AUTH_SECRET", HEX32),
    ("FLEET_API_TOKEN_ADMIN", HEX32),
    ("GPU_NODE_SECRET", Shape { prefix: "", bytes: 24 }),
    ("PLATFORM_SECRET", HEX32),
    ("POSTGRES_PASSWORD", HEX32),
    ("OBJECTS_ACCESS_KEY", Shape { prefix: "", bytes: 10 }),
    ("OBJECTS_SECRET_KEY", HEX32),
    ("STRIPE_STANDIN_CONTROL_KEY", HEX32),
    ("STRIPE_SECRET_KEY", Shape { prefix: "sk_test_", bytes: 24 }),
    ("STRIPE_WEBHOOK_SECRET", Shape { prefix: "whsec_", bytes: 32 }),
];

/// Name and length in characters of every secret that is made.
pub(crate) fn inventory() -> impl Iterator<Item = (&'static str, usize)> {
    INVENTORY.iter().map(|(name, shape)| (*name, shape.prefix.len() + 2 * shape.bytes))
}

/// What each secret that is made may look like: its prefix and its name.
pub(crate) fn samples() -> BTreeMap<&'static str, String> {
    INVENTORY.iter().map(|(name, shape)| (*name, format!("{}{name}", shape.prefix))).collect()
}

/// The secrets of one stack. `Debug` shows names only.
pub(crate) struct Secrets {
    values: BTreeMap<&'static str, String>,
    directory: PathBuf,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Secrets {
    /// Whether the directory holds no secret that data could be protected by.
    pub(crate) fn are_missing(directory: &Path) -> bool {
        !directory.join("POSTGRES_PASSWORD").exists()
    }

    /// Reads the secrets, makes those that do not exist, and refuses those that are not what they should be.
    ///
    /// Answers with the names that were made, too.
    pub(crate) fn load_or_create(directory: &Path) -> anyhow::Result<(Self, Vec<&'static str>)> {
        private_directory(directory)?;
        let mut values = BTreeMap::new();
        let mut created = Vec::new();
        for (name, shape) in INVENTORY {
            let file = directory.join(name);
            let value = match fs::read_to_string(&file) {
                Ok(text) => text.trim_end_matches('\n').to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let value = shape.generate();
                    write_private(&file, &value)?;
                    created.push(name);
                    value
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("{} cannot be read", file.display()));
                }
            };
            if let Some(problem) = shape.problem(&value) {
                return Err(Failure::new(Exit::Environment, format!("the secret {name} is damaged"))
                    .why(format!("{}: {problem}", file.display()))
                    .fix("put the right value back; or `cargo wopr down --volumes`, which removes the data it protects, too")
                    .into());
            }
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            values.insert(name, value);
        }
        Ok((Self { values, directory: directory.to_owned() }, created))
    }

    /// The secrets of a stack that was brought up before.
    pub(crate) fn existing(directory: &Path) -> anyhow::Result<Self> {
        if Self::are_missing(directory) {
            return Err(Failure::new(Exit::Environment, "there are no secrets of a stack")
                .why(format!("{} holds none", directory.display()))
                .fix("`cargo wopr up` makes them")
                .into());
        }
        Self::load_or_create(directory).map(|(secrets, _)| secrets)
    }

    /// Reads the secrets and changes nothing.
    ///
    /// # Errors
    /// If one is missing or damaged.
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut values = BTreeMap::new();
        for (name, shape) in INVENTORY {
            let file = directory.join(name);
            let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            let value = text.trim_end_matches('\n').to_owned();
            if let Some(problem) = shape.problem(&value) {
                anyhow::bail!("{}: {problem}", file.display());
            }
            values.insert(name, value);
        }
        Ok(Self { values, directory: directory.to_owned() })
    }

    /// The value of a secret of the inventory.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<&str> {
        self.values.get(name).map(String::as_str).with_context(|| format!("{name} is not in the inventory"))
    }

    /// The file that holds a secret.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Secret files for one container: names and values.
pub(crate) type Handover = BTreeMap<String, String>;

/// Writes a container's secrets where it will find them mounted, readable by its user alone.
///
/// The directory lies inside the private data directory, so that other accounts of this machine cannot reach it.
pub(crate) fn hand_over(directory: &Path, files: &Handover, uid: u32) -> anyhow::Result<()> {
    private_directory(directory)?;
    for (name, value) in files {
        let file = directory.join(name);
        if fs::read_to_string(&file).is_ok_and(|present| present == *value) {
            continue;
        }
        // A mounted file that is replaced stays visible in its old form: the directory is what is mounted.
        write_private(&file, value)?;
        chown(&file, Some(uid), Some(uid)).with_context(|| not_root(&file))?;
    }
    for entry in fs::read_dir(directory)?.flatten() {
        if !files.contains_key(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    chown(directory, Some(uid), Some(uid)).with_context(|| not_root(directory))
}

fn not_root(path: &Path) -> String {
    format!("{} cannot be given to the container's user; run this as root", path.display())
}

/// A name for the values that says when they have changed, and nothing else.
pub(crate) fn fingerprint_of(files: &Handover) -> String {
    fingerprint(files.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]))
}

/// Writes through a temporary name: a reader sees the old content, or the new, never half of it.
pub(crate) fn write_private(file: &Path, value: &str) -> anyhow::Result<()> {
    let draft = file.with_extension("new");
    if draft.exists() {
        fs::remove_file(&draft)?;
    }
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut open| open.write_all(value.as_bytes()).and_then(|()| open.sync_all()))
        .and_then(|()| fs::rename(&draft, file));
    written.with_context(|| format!("{} cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("wopr-ops-{name}-{}", std::process::id()));
        let _absent = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn what_is_generated_has_its_shape() {
        for (name, shape) in INVENTORY {
            let value = shape.generate();
            assert_eq!(shape.problem(&value), None, "{name}");
            assert_ne!(value, shape.generate(), "{name}");
        }
    }

    #[test]
    fn a_problem_names_what_is_wrong_and_never_the_value() {
        let shape = Shape { prefix: "whsec_", bytes: 4 };
        let cases = [
            ("", "does not start"),
            ("sk_test_01234567", "does not start"),
            ("whsec_0123", "10 characters long instead of 14"),
            ("whsec_0123456Z", "other than 0-9"),
        ];
        for (value, expected) in cases {
            let problem = shape.problem(value).unwrap();
            assert!(problem.contains(expected), "{problem}");
            assert!(value.is_empty() || !problem.contains(value), "{problem}");
        }
        assert_eq!(shape.problem("whsec_01234567"), None);
    }

    #[test]
    fn secrets_are_made_once_and_only_their_owner_reads_them() {
        let directory = temporary("secrets");
        let (first, created) = Secrets::load_or_create(&directory).unwrap();
        assert_eq!(created.len(), INVENTORY.len());
        let (second, created) = Secrets::load_or_create(&directory).unwrap();
        assert!(created.is_empty());
        assert_eq!(first.get("PLATFORM_SECRET").unwrap(), second.get("PLATFORM_SECRET").unwrap());
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(first.path("PLATFORM_SECRET")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(first.get("PLATFORM_SECRET").unwrap()));

        fs::write(first.path("STRIPE_WEBHOOK_SECRET"), "hunter2").unwrap();
        let error = Secrets::load_or_create(&directory).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.what, "the secret STRIPE_WEBHOOK_SECRET is damaged");
        assert!(!format!("{failure:?}").contains("hunter2"));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_fingerprint_follows_names_and_values() {
        let of = |pairs: &[(&str, &str)]| {
            fingerprint_of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[("A", "1")]), of(&[("A", "1")]));
        assert_ne!(of(&[("A", "1")]), of(&[("A", "2")]));
        assert_ne!(of(&[("A", "1")]), of(&[("B", "1")]));
    }
}
