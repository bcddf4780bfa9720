//! What a bot keeps on its volume: its token, and every message, synced before it is answered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

const TOKEN: &str = "daemon-token";
const MESSAGES: &str = "messages.jsonl";

/// Why the volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The file system said no; most often the volume is missing, read-only, or belongs to another user.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The file system's word.
        source: io::Error,
    },
    /// Another bot has it open.
    #[error("{0} is in use by another bot")]
    InUse(PathBuf),
    /// A file holds what no bot writes.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// One exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exchange {
    /// Counted from 1, over all starts.
    pub(super) id: u64,
    pub(super) at: Timestamp,
    pub(super) text: String,
    pub(super) reply: String,
}

#[derive(Debug)]
pub(super) struct Volume {
    home: PathBuf,
    file: File,
    /// Bytes known to be whole lines.
    length: u64,
    exchanges: Vec<Exchange>,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { action, path, source }
}

impl Volume {
    /// Opens the volume; answers it and the token.
    pub(super) fn open(home: &Path) -> Result<(Self, String), VolumeError> {
        fs::create_dir_all(home).map_err(io_error("create", home))?;
        probe(home)?;
        let path = home.join(MESSAGES);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(io_error("open", &path))?;
        file.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => VolumeError::InUse(path.clone()),
            fs::TryLockError::Error(source) => io_error("lock", &path)(source),
        })?;
        let mut volume = Self { home: home.to_owned(), file, length: 0, exchanges: Vec::new() };
        volume.read(&path)?;
        let token = token(home)?;
        Ok((volume, token))
    }

    fn read(&mut self, path: &Path) -> Result<(), VolumeError> {
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(io_error("read", path))?;
            if line.last() != Some(&b'\n') {
                // Written when the process died, so nobody was told that it was kept.
                break;
            }
            let exchange: Exchange = serde_json::from_slice(&line)
                .map_err(|error| VolumeError::Damaged { path: path.to_owned(), reason: error.to_string() })?;
            self.exchanges.push(exchange);
            self.length += read as u64;
        }
        self.file.set_len(self.length).map_err(io_error("cut off the last line of", path))
    }

    /// Keeps an exchange; it is on the disk when this returns.
    pub(super) fn remember(&mut self, at: Timestamp, text: String) -> Result<Exchange, VolumeError> {
        let path = self.home.join(MESSAGES);
        let id = self.count() + 1;
        let reply = format!("Message {id} received: {text}");
        let exchange = Exchange { id, at, text, reply };
        let mut line = serde_json::to_vec(&exchange)
            .map_err(|error| VolumeError::Damaged { path: path.clone(), reason: error.to_string() })?;
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // A half-written line would spoil the next one; if it cannot be cut off, starting again will.
            self.file.set_len(self.length).map_err(io_error("cut off the last line of", &path))?;
            return Err(io_error("write", &path)(source));
        }
        self.length += line.len() as u64;
        self.exchanges.push(exchange.clone());
        Ok(exchange)
    }

    /// How many exchanges there were, over all starts.
    pub(super) fn count(&self) -> u64 {
        self.exchanges.len() as u64
    }

    /// The last exchanges, oldest first.
    pub(super) fn last(&self, limit: usize) -> &[Exchange] {
        self.exchanges.get(self.exchanges.len().saturating_sub(limit)..).unwrap_or_default()
    }
}

/// Whether a file can be written and removed in `home`.
pub(super) fn probe(home: &Path) -> Result<(), VolumeError> {
    let path = home.join(".probe");
    fs::write(&path, b"probe").map_err(io_error("write", &path))?;
    fs::remove_file(&path).map_err(io_error("remove", &path))
}

/// The token that a bot has made in `home`.
pub(super) fn read_token(home: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(home.join(TOKEN))?.trim().to_owned())
}

/// The token in `home`, made when there is none: 64 hexadecimal digits, readable by the bot alone.
fn token(home: &Path) -> Result<String, VolumeError> {
    let path = home.join(TOKEN);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let token = text.trim();
            if token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(token.to_owned());
            }
            return Err(VolumeError::Damaged { path, reason: "a token has 64 hexadecimal digits".to_owned() });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("read", &path)(error)),
    }
    let token = hex::encode(rand::rng().random::<[u8; 32]>());
    // Under its own name only once it is whole.
    let draft = home.join(".daemon-token.new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(token.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(home)?.sync_all()
    };
    write().map_err(io_error("write", &path))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(PathBuf);

    impl Home {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("wopr-bot-{}", hex::encode(rand::rng().random::<[u8; 8]>())));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_token_and_the_messages_outlive_the_bot() {
        let home = Home::new();
        let (mut volume, token) = Volume::open(&home.0).unwrap();
        volume.remember(Timestamp::UNIX_EPOCH, "hello".into()).unwrap();
        assert!(matches!(Volume::open(&home.0), Err(VolumeError::InUse(_))));
        drop(volume);
        let (volume, again) = Volume::open(&home.0).unwrap();
        assert_eq!((again, volume.count(), volume.last(9)[0].text.as_str()), (token, 1, "hello"));
    }

    #[test]
    fn an_unfinished_last_line_is_dropped_and_any_other_damage_refused() {
        let home = Home::new();
        let (mut volume, _) = Volume::open(&home.0).unwrap();
        volume.remember(Timestamp::UNIX_EPOCH, "hello".into()).unwrap();
        drop(volume);
        let path = home.0.join(MESSAGES);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{{\"id\":2,\"at\":\"19")).unwrap();
        let (volume, _) = Volume::open(&home.0).unwrap();
        assert_eq!(volume.count(), 1);
        drop(volume);
        fs::write(&path, format!("nonsense\n{whole}")).unwrap();
        assert!(matches!(Volume::open(&home.0), Err(VolumeError::Damaged { .. })));
    }

    #[test]
    fn a_damaged_token_is_not_replaced_behind_the_owners_back() {
        let home = Home::new();
        fs::write(home.0.join(TOKEN), "short").unwrap();
        assert!(matches!(Volume::open(&home.0), Err(VolumeError::Damaged { .. })));
    }
}
