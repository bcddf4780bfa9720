//! Settings of the program: environment variables and the files that they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use crate::error::BackupError;
use crate::keys::Keys;
use crate::lock::LockSettings;
use crate::store::{S3Settings, StoreSettings};

/// All variables of ours begin so; one that is not known is refused.
pub const PREFIX: &str = "WOPR_BACKUP_";

/// What a run needs to know besides its arguments.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The repository's name.
    pub repository: String,
    /// Where its objects are.
    pub store: StoreSettings,
    /// What opens it.
    pub keys: Keys,
    /// How its lock is taken.
    pub lock: LockSettings,
    /// The database that is dumped or restored; only the database commands need it.
    pub database_url: Option<SecretString>,
}

/// The variables, taken one by one; what is left at the end is unknown.
struct Variables(BTreeMap<String, String>);

impl Variables {
    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(&format!("{PREFIX}{name}")).filter(|value| !value.is_empty())
    }

    fn need(&mut self, name: &str) -> Result<String, BackupError> {
        self.take(name).ok_or_else(|| BackupError::Usage(format!("{PREFIX}{name} is not set")))
    }

    fn flag(&mut self, name: &str) -> Result<bool, BackupError> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(BackupError::Usage(format!("{PREFIX}{name} is {other:?}, neither true nor false"))),
        }
    }

    fn seconds(&mut self, name: &str, default: u64, least: u64) -> Result<Duration, BackupError> {
        let Some(text) = self.take(name) else { return Ok(Duration::from_secs(default)) };
        match text.parse() {
            Ok(seconds) if (least..=86_400).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            _ => Err(BackupError::Usage(format!("{PREFIX}{name} is {text:?}, not {least} to 86400 seconds"))),
        }
    }

    fn secret(&mut self, name: &str) -> Result<SecretString, BackupError> {
        let path = PathBuf::from(self.need(name)?);
        read(&path).map(|content| SecretString::from(content.trim_end_matches(['\r', '\n'])))
    }
}

/// Whose lock it is, where nobody said: a container's host name is its id.
fn host() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unnamed".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn read(path: &Path) -> Result<String, BackupError> {
    std::fs::read_to_string(path).map_err(|error| BackupError::Usage(format!("{}: {error}", path.display())))
}

impl Settings {
    /// Reads the settings from these variables, of which those that are not ours are passed over.
    ///
    /// # Errors
    /// [`BackupError::Usage`], naming the variable.
    pub fn read(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, BackupError> {
        let mut variables = Variables(variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect());
        let repository = variables.need("REPOSITORY")?;
        let keys = Keys::parse(&read(&PathBuf::from(variables.need("KEY_FILE")?))?)?;
        let give_up_after = variables.seconds("STORE_SECONDS", 60, 1)?;
        let store = match (variables.take("DIRECTORY"), variables.take("S3_BUCKET")) {
            (Some(directory), None) => StoreSettings::Directory(directory.into()),
            (None, Some(bucket)) => StoreSettings::S3(S3Settings {
                endpoint: variables.take("S3_ENDPOINT"),
                region: variables.need("S3_REGION")?,
                bucket,
                access_key: variables.secret("S3_ACCESS_KEY_FILE")?,
                secret_key: variables.secret("S3_SECRET_KEY_FILE")?,
                path_style: variables.flag("S3_PATH_STYLE")?,
                allow_http: variables.flag("S3_ALLOW_HTTP")?,
                give_up_after,
            }),
            _ => return Err(BackupError::Usage(format!("one of {PREFIX}DIRECTORY and {PREFIX}S3_BUCKET is needed"))),
        };
        let lock = LockSettings {
            owner: variables.take("OWNER").unwrap_or_else(host),
            expiry: variables.seconds("LOCK_SECONDS", 120, 2)?,
            wait: variables.seconds("LOCK_WAIT_SECONDS", 0, 0)?,
        };
        let database_url = if variables.0.contains_key(&format!("{PREFIX}DATABASE_URL_FILE")) {
            Some(variables.secret("DATABASE_URL_FILE")?)
        } else {
            None
        };
        if let Some(unknown) = variables.0.into_keys().next() {
            return Err(BackupError::Usage(format!("{unknown} is no setting of this command")));
        }
        Ok(Self { repository, store, keys, lock, database_url })
    }
}
