//! The journal: one JSON line per transaction, synced before the transaction is answered.
//!
//! A process that dies while it writes leaves a last line without its newline: nobody was told that this transaction
//! happened, so it is cut off on the next start. Any other damage is refused, because replaying around it would make
//! up a history.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::store::Write;

const FILE_NAME: &str = "stripe.journal";
const FORMAT: &str = "wopr-stripe-standin/1";

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("journal {path}: {action} failed")]
    Io {
        /// The journal.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The file system's word.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("journal {path} is in use by another process")]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// A line other than an unfinished last one makes no sense.
    #[error("journal {path} is damaged at line {line}: {reason}")]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// An earlier write failed and could not be undone, so nothing may follow it.
    #[error("journal {path} is closed after a failed write")]
    Closed {
        /// The journal.
        path: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    n: u64,
    writes: Vec<Write>,
}

#[derive(Serialize)]
struct LineRef<'a> {
    n: u64,
    writes: &'a [Write],
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes known to be whole lines.
    length: u64,
    /// Number of the next line.
    next: u64,
    closed: bool,
}

impl Journal {
    /// Opens or creates the journal in `directory`, giving each transaction found to `replay`.
    pub(super) fn open(directory: &Path, mut replay: impl FnMut(Vec<Write>)) -> Result<Self, JournalError> {
        let path = directory.join(FILE_NAME);
        let io = |action| {
            let path = path.clone();
            move |source| JournalError::Io { path, action, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("creating its directory"))?;
        // It holds webhook secrets of endpoints made through the API.
        let file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).map_err(io("opening"))?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => JournalError::InUse { path: path.clone() },
            std::fs::TryLockError::Error(source) => io("locking")(source),
        })?;

        let mut journal = Self { path: path.clone(), file, length: 0, next: 1, closed: false };
        journal.replay(&mut replay)?;
        if journal.length == 0 {
            journal.start().map_err(io("writing the first line"))?;
            File::open(directory).and_then(|dir| dir.sync_all()).map_err(io("syncing its directory"))?;
        }
        Ok(journal)
    }

    fn replay(&mut self, replay: &mut impl FnMut(Vec<Write>)) -> Result<(), JournalError> {
        let path = self.path.clone();
        let io = |action| {
            let path = path.clone();
            move |source| JournalError::Io { path, action, source }
        };
        let mut reader = BufReader::new(&self.file);
        let (mut line, mut number) = (Vec::new(), 0_u64);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(io("reading"))?;
            if line.last() != Some(&b'\n') {
                if read > 0 {
                    tracing::warn!(bytes = read, "cut off an unfinished last line of {}", path.display());
                }
                break;
            }
            number += 1;
            let damaged = |reason: String| JournalError::Damaged { path: path.clone(), line: number, reason };
            if number == 1 {
                let header: Header = serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()))?;
                if header.format != FORMAT {
                    return Err(damaged(format!("its format is {}, not {FORMAT}", header.format)));
                }
            } else {
                let found: Line = serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()))?;
                if found.n != self.next {
                    return Err(damaged(format!("transaction {} follows {}", found.n, self.next - 1)));
                }
                replay(found.writes);
                self.next += 1;
            }
            self.length += read as u64;
        }
        drop(reader);
        self.file.set_len(self.length).map_err(io("cutting off the last line"))?;
        self.file.seek(SeekFrom::End(0)).map_err(io("seeking"))?;
        Ok(())
    }

    fn start(&mut self) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(&Header { format: FORMAT.to_owned() })?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_all()?;
        self.length = line.len() as u64;
        Ok(())
    }

    /// Appends one transaction and syncs it to the disk.
    pub(super) fn append(&mut self, writes: &[Write]) -> Result<(), JournalError> {
        if self.closed {
            return Err(JournalError::Closed { path: self.path.clone() });
        }
        let result = self.write_line(writes);
        if let Err(source) = result {
            // A half-written line would make the next whole one unreadable.
            self.closed = self.file.set_len(self.length).is_err();
            return Err(JournalError::Io { path: self.path.clone(), action: "appending", source });
        }
        Ok(())
    }

    fn write_line(&mut self, writes: &[Write]) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(&LineRef { n: self.next, writes })?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.length += line.len() as u64;
        self.next += 1;
        Ok(())
    }
}
