//! The mails kept, in memory and, when asked for, on the disk.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Config;
use super::mime::{self, Parsed};
use crate::clock::Clock;

/// Why the mailbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// The file system said no.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The file system's word.
        source: io::Error,
    },
    /// A file in the directory is no mail.
    #[error("{path} is no kept mail: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A mail as it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Counted from 1.
    pub id: u64,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// The sender of the envelope; empty for notices about mail.
    pub from: String,
    /// The recipients of the envelope, blind copies included.
    pub to: Vec<String>,
    /// The message.
    pub raw: Vec<u8>,
    /// What is in it.
    pub parsed: Parsed,
}

/// A mail as it is kept on the disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    id: u64,
    received_at: Timestamp,
    from: String,
    to: Vec<String>,
    raw_base64: String,
}

#[derive(Debug, Default)]
struct Mails {
    /// Oldest first.
    kept: VecDeque<Arc<Mail>>,
    bytes: usize,
    next_id: u64,
}

#[derive(Debug)]
pub(super) struct Mailbox {
    mails: Mutex<Mails>,
    directory: Option<PathBuf>,
    mails_max: usize,
    bytes_max: usize,
    clock: Arc<dyn Clock>,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MailboxError {
    let path = path.to_owned();
    move |source| MailboxError::Io { action, path, source }
}

impl Mailbox {
    pub(super) fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, MailboxError> {
        let mailbox = Self {
            mails: Mutex::new(Mails { next_id: 1, ..Mails::default() }),
            directory: config.data_dir.clone(),
            mails_max: config.mails_max.max(1),
            bytes_max: config.bytes_max,
            clock,
        };
        if let Some(directory) = &config.data_dir {
            fs::create_dir_all(directory).map_err(io_error("create", directory))?;
            let mut mails = mailbox.lock();
            for path in files(directory)? {
                let mail = read(&path)?;
                mails.next_id = mails.next_id.max(mail.id + 1);
                mails.bytes += mail.raw.len();
                mails.kept.push_back(Arc::new(mail));
            }
            mails.kept.make_contiguous().sort_by_key(|mail| mail.id);
            mailbox.make_room(&mut mails)?;
        }
        Ok(mailbox)
    }

    fn lock(&self) -> MutexGuard<'_, Mails> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a mail; with a directory it is on the disk when this returns.
    pub(super) fn keep(&self, from: String, to: Vec<String>, raw: Vec<u8>) -> Result<u64, MailboxError> {
        let parsed = mime::parse(&raw);
        let mut mails = self.lock();
        let mail = Mail { id: mails.next_id, received_at: self.clock.now(), from, to, raw, parsed };
        if let Some(directory) = &self.directory {
            write(directory, &mail)?;
        }
        let id = mail.id;
        mails.next_id += 1;
        mails.bytes += mail.raw.len();
        mails.kept.push_back(Arc::new(mail));
        self.make_room(&mut mails)?;
        Ok(id)
    }

    /// Forgets the oldest until the rest fits; the newest always stays.
    fn make_room(&self, mails: &mut Mails) -> Result<(), MailboxError> {
        while mails.kept.len() > 1 && (mails.kept.len() > self.mails_max || mails.bytes > self.bytes_max) {
            let Some(oldest) = mails.kept.pop_front() else { break };
            mails.bytes -= oldest.raw.len();
            self.remove_file(oldest.id)?;
        }
        Ok(())
    }

    fn remove_file(&self, id: u64) -> Result<(), MailboxError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let path = directory.join(file_name(id));
        fs::remove_file(&path).map_err(io_error("remove", &path))
    }

    /// The mails to an address, or all, newest first.
    pub(super) fn list(&self, to: Option<&str>) -> Vec<Arc<Mail>> {
        let wanted = |mail: &&Arc<Mail>| to.is_none_or(|to| mail.to.iter().any(|known| known.eq_ignore_ascii_case(to)));
        self.lock().kept.iter().rev().filter(wanted).cloned().collect()
    }

    pub(super) fn find(&self, id: u64) -> Option<Arc<Mail>> {
        self.lock().kept.iter().find(|mail| mail.id == id).cloned()
    }

    /// Forgets all mails; answers how many there were.
    pub(super) fn clear(&self) -> Result<usize, MailboxError> {
        let mut mails = self.lock();
        let count = mails.kept.len();
        while let Some(mail) = mails.kept.pop_front() {
            mails.bytes -= mail.raw.len();
            self.remove_file(mail.id)?;
        }
        Ok(count)
    }
}

fn file_name(id: u64) -> String {
    format!("{id:010}.mail.json")
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, MailboxError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let path = entry.map_err(io_error("list", directory))?.path();
        if path.to_string_lossy().ends_with(".mail.json") {
            found.push(path);
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Mail, MailboxError> {
    let damaged = |reason: String| MailboxError::Damaged { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let raw = STANDARD.decode(&stored.raw_base64).map_err(|error| damaged(error.to_string()))?;
    let parsed = mime::parse(&raw);
    Ok(Mail { id: stored.id, received_at: stored.received_at, from: stored.from, to: stored.to, raw, parsed })
}

fn write(directory: &Path, mail: &Mail) -> Result<(), MailboxError> {
    let path = directory.join(file_name(mail.id));
    // Under its own name only once it is whole.
    let draft = directory.join(".draft");
    let stored = Stored {
        id: mail.id,
        received_at: mail.received_at,
        from: mail.from.clone(),
        to: mail.to.clone(),
        raw_base64: STANDARD.encode(&mail.raw),
    };
    let bytes = serde_json::to_vec(&stored)
        .map_err(|error| MailboxError::Damaged { path: path.clone(), reason: error.to_string() })?;
    let save = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(directory)?.sync_all()
    };
    save().map_err(io_error("write", &path))
}
