//! A log on this machine's disk that a charge is in before its answer ends: the database may be away, this process may be
//! killed, and nothing is lost.
//!
//! Lines are appended to segment files as `length, CRC-32, JSON`. A position is the number of bytes ever written, and a
//! segment is named by the position that it begins at. What is settled in the database is behind the cursor; segments that
//! are wholly behind it, and in which no open call began, are removed. A line that was cut off by a crash is at the end of
//! the last segment, and is cut away; damage anywhere else is refused, for it hides charges.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use super::record::{CallRecord, Line};
use crate::ids::LeaseHolder;

/// A segment that is longer is followed by another.
const SEGMENT_BYTES: u64 = 8 << 20;
/// A line is never longer.
const LINE_BYTES: usize = 1 << 20;
/// Most lines are not longer.
const LINE_BYTES_USUAL: usize = 2 << 10;
/// Length and checksum.
const HEAD_BYTES: usize = 8;
/// With [`Sync::Soon`], the disk is made to have what was written so long ago: once for many lines, as writing waits while
/// the disk takes what was written before.
const SOON: Duration = Duration::from_millis(10);
/// What the database refused, for somebody to look at.
const SET_ASIDE: &str = "refused.jsonl";
/// What the text of [`Line::Ended`] begins with.
const ENDED: &[u8] = b"{\"ended\":";

/// When a charge counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When the disk has it: not even a power cut loses it. Costs one flush of the disk, shared by all that wait for it.
    BeforeAnswer,
    /// When the operating system has it: a crash of this process does not lose it, a power cut may lose the last
    /// milliseconds.
    Soon,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The disk refused.
    #[error("{path}: {what}")]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// A line is damaged, and it is not the last one.
    #[error("{path} is damaged at byte {offset}: charges after it cannot be read")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
    },
    /// A line cannot be written: it is too long, or is no JSON.
    #[error("a line of the journal cannot be written")]
    Line,
    /// The disk failed while lines were being made durable; what it has is unknown, so that nothing more is written.
    #[error("the journal's disk has failed")]
    Failed,
}

/// The log. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    holder: LeaseHolder,
    sync: Sync,
    /// The cursor as the file has it. Locked before the writer, never after.
    noted: Mutex<u64>,
    log: Arc<Log>,
    flush: Arc<Flush>,
    written: watch::Sender<u64>,
    /// Lines of `refused.jsonl`, as far as this process knows.
    set_aside: AtomicU64,
    /// Locked for as long as the journal is in use.
    _lock: File,
}

/// What the thread that flushes has as well: it may outlive the journal by one flush.
struct Log {
    writer: Mutex<Writer>,
    durable: watch::Sender<Durable>,
}

struct Writer {
    file: Arc<File>,
    path: PathBuf,
    /// Where each segment begins; the last one is written to.
    segments: BTreeMap<u64, PathBuf>,
    position: u64,
    /// Where calls began that have not ended.
    open: HashMap<Uuid, u64>,
    cursor: u64,
    failed: bool,
}

/// What the thread that flushes is told. It does not keep the journal from being dropped.
#[derive(Default)]
struct Flush {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    position: u64,
    stop: bool,
    /// Whether the thread waits: to wake one that does not costs as much.
    waiting: bool,
}

#[derive(Debug, Clone, Copy)]
struct Durable {
    position: u64,
    failed: bool,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("folder", &self.shared.folder).field("holder", &self.shared.holder).finish()
    }
}

/// Nothing that holds these locks can leave what they guard half done: a panic elsewhere does not make it unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Opens the journal of a folder, which is made if there is none. Calls that were open when the process before ended are
    /// ended as they were last known.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(folder: &Path, sync: Sync) -> Result<Self, JournalError> {
        fs::create_dir_all(folder).map_err(disk(folder, "making the folder"))?;
        let lock_path = folder.join("lock");
        let lock_file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(disk(&lock_path, "opening"))?;
        match lock_file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::InUse(folder.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(disk(&lock_path, "locking")(error)),
        }
        let holder = holder(folder)?;
        let cursor = read_cursor(folder)?;
        let (writer, unfinished) = recover(folder, cursor)?;
        let position = writer.position;
        let set_aside = lines_of(&folder.join(SET_ASIDE))?;
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            holder,
            sync,
            noted: Mutex::new(writer.cursor),
            log: Arc::new(Log {
                writer: Mutex::new(writer),
                durable: watch::Sender::new(Durable { position: 0, failed: false }),
            }),
            flush: Arc::default(),
            written: watch::Sender::new(position),
            set_aside: AtomicU64::new(set_aside),
            _lock: lock_file,
        });
        let (flush, log) = (Arc::clone(&shared.flush), Arc::clone(&shared.log));
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                let mut flushed = 0;
                while let Some(wanted) = flush.wait(flushed) {
                    if sync == Sync::Soon {
                        std::thread::sleep(SOON);
                    }
                    let Some(position) = log.flush() else { break };
                    flushed = position.max(wanted);
                }
            })
            .map_err(disk(folder, "starting the thread that flushes"))?;
        let journal = Self { shared };
        for call in unfinished {
            tracing::warn!(call = %call.id, "a call was open when the process ended; it is charged as it was last known");
            journal.append(&Line::Ended(call))?;
        }
        Ok(journal)
    }

    /// Who leases credit for what is written here: the same after a restart.
    pub fn holder(&self) -> LeaseHolder {
        self.shared.holder
    }

    /// Appends a line; answers the position after it. A crash of this process does not lose it any more.
    ///
    /// # Errors
    /// [`JournalError::Line`], [`JournalError::Disk`], after which the line is not there; [`JournalError::Failed`].
    pub fn append<C: Borrow<CallRecord> + Serialize>(&self, line: &Line<C>) -> Result<u64, JournalError> {
        let mut bytes = Vec::with_capacity(LINE_BYTES_USUAL);
        bytes.resize(HEAD_BYTES, 0);
        serde_json::to_writer(&mut bytes, line).map_err(|_| JournalError::Line)?;
        let length = bytes.len() - HEAD_BYTES;
        if length > LINE_BYTES {
            return Err(JournalError::Line);
        }
        let crc = crc32fast::hash(&bytes[HEAD_BYTES..]);
        bytes[..4].copy_from_slice(&u32::try_from(length).map_err(|_| JournalError::Line)?.to_le_bytes());
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let mut writer = lock(&self.shared.log.writer);
        let position = writer.append(&self.shared.folder, &bytes, line)?;
        drop(writer);
        if matches!(line, Line::Ended(_)) {
            self.shared.written.send_replace(position);
            self.shared.flush.want(position);
        }
        Ok(position)
    }

    /// Waits until what was appended before `position` counts as written ([`Sync`]).
    ///
    /// # Errors
    /// [`JournalError::Failed`].
    pub async fn settled_on_disk(&self, position: u64) -> Result<(), JournalError> {
        if self.shared.sync == Sync::Soon {
            return Ok(());
        }
        let mut durable = self.shared.log.durable.subscribe();
        let state = durable.wait_for(|state| state.failed || state.position >= position).await;
        match state {
            Ok(state) if !state.failed => Ok(()),
            _ => Err(JournalError::Failed),
        }
    }

    /// Whether lines can be written.
    pub fn is_writable(&self) -> bool {
        !lock(&self.shared.log.writer).failed
    }

    /// Says when there are lines after the position that was seen last.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.shared.written.subscribe()
    }

    /// The first position that is not settled yet.
    pub fn cursor(&self) -> u64 {
        lock(&self.shared.log.writer).cursor
    }

    /// The position after the last line.
    pub fn position(&self) -> u64 {
        lock(&self.shared.log.writer).position
    }

    /// Calls from `from` on that ended, at most `limit`, and the position to go on from.
    ///
    /// # Errors
    /// [`JournalError::Disk`], [`JournalError::Damaged`].
    pub fn read_ended(&self, from: u64, limit: usize) -> Result<(Vec<CallRecord>, u64), JournalError> {
        let (segments, end) = {
            let writer = lock(&self.shared.log.writer);
            let first = writer.segments.range(..=from).next_back().map_or(from, |(start, _)| *start);
            let segments: Vec<(u64, PathBuf)> =
                writer.segments.range(first..).map(|(start, path)| (*start, path.clone())).collect();
            (segments, writer.position)
        };
        let (mut ended, mut at) = (Vec::new(), from);
        for (index, (start, path)) in segments.iter().enumerate() {
            let segment_end = segments.get(index + 1).map_or(end, |(next, _)| *next);
            let mut reader = Segment::open(path, *start, at.max(*start), segment_end)?;
            while ended.len() < limit {
                let Some(text) = reader.next_text()? else { break };
                // What began is in the line of its end once more.
                if text.starts_with(ENDED)
                    && let Line::Ended(call) = reader.line()?
                {
                    ended.push(call);
                }
                at = reader.position;
            }
            if ended.len() >= limit {
                break;
            }
            at = at.max(segment_end);
        }
        Ok((ended, at))
    }

    /// Keeps a call that the database refuses in `refused.jsonl`, for somebody to look at.
    ///
    /// # Errors
    /// [`JournalError::Disk`].
    pub fn set_aside(&self, call: &CallRecord) -> Result<(), JournalError> {
        let path = self.shared.folder.join(SET_ASIDE);
        let mut line = serde_json::to_vec(call).map_err(|_| JournalError::Line)?;
        line.push(b'\n');
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&line).and_then(|()| file.sync_all()))
            .map_err(disk(&path, "writing"))?;
        self.shared.set_aside.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Calls that were set aside by the time this process began, and those since.
    pub fn set_aside_count(&self) -> u64 {
        self.shared.set_aside.load(Ordering::Relaxed)
    }

    /// The position after the last end of a call that this process wrote or found.
    pub(super) fn ended_position(&self) -> u64 {
        *self.shared.written.borrow()
    }

    /// Everything before `position` is in the database.
    ///
    /// # Errors
    /// [`JournalError::Disk`]: it is settled again later, which changes nothing.
    pub fn settle(&self, position: u64) -> Result<(), JournalError> {
        let path = self.shared.folder.join("cursor");
        let next = self.shared.folder.join("cursor.next");
        // Calls are written down meanwhile.
        let mut noted = lock(&self.shared.noted);
        *noted = position.max(*noted);
        fs::write(&next, noted.to_string()).map_err(disk(&next, "writing"))?;
        fs::rename(&next, &path).map_err(disk(&path, "replacing"))?;
        let mut writer = lock(&self.shared.log.writer);
        writer.cursor = writer.cursor.max(*noted);
        writer.forget()
    }
}

impl Flush {
    fn want(&self, position: u64) {
        let mut wanted = lock(&self.wanted);
        if wanted.position < position {
            wanted.position = position;
            if wanted.waiting {
                wanted.waiting = false;
                self.changed.notify_one();
            }
        }
    }

    /// Waits until more is to be flushed, and says up to where; nothing at the end.
    fn wait(&self, flushed: u64) -> Option<u64> {
        let wanted = self.changed.wait_while(lock(&self.wanted), |wanted| {
            wanted.waiting = !wanted.stop && wanted.position <= flushed;
            wanted.waiting
        });
        let wanted = *wanted.unwrap_or_else(PoisonError::into_inner);
        (!wanted.stop).then_some(wanted.position)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        lock(&self.flush.wanted).stop = true;
        self.flush.changed.notify_all();
    }
}

impl Log {
    /// Flushes what is written, and says up to where; nothing if the disk has failed.
    fn flush(&self) -> Option<u64> {
        let (file, position) = {
            let writer = lock(&self.writer);
            (Arc::clone(&writer.file), writer.position)
        };
        let failed = match file.sync_data() {
            Ok(()) => false,
            Err(error) => {
                tracing::error!("flushing the journal failed, no more calls are let in: {error}");
                lock(&self.writer).failed = true;
                true
            }
        };
        self.durable.send_replace(Durable { position, failed });
        (!failed).then_some(position)
    }
}

impl Writer {
    fn append<C: Borrow<CallRecord>>(
        &mut self,
        folder: &Path,
        bytes: &[u8],
        line: &Line<C>,
    ) -> Result<u64, JournalError> {
        if self.failed {
            return Err(JournalError::Failed);
        }
        let start = self.segments.keys().next_back().copied().unwrap_or(0);
        if self.position - start >= SEGMENT_BYTES {
            // What is in the old segment is flushed with it: only the newest is flushed later.
            self.file.sync_data().map_err(disk(&self.path, "flushing"))?;
            self.begin_segment(folder)?;
        }
        if let Err(error) = (&*self.file).write_all(bytes) {
            // Half a line must not stay before the next one.
            let start = self.segments.keys().next_back().copied().unwrap_or(0);
            let cut =
                self.file.set_len(self.position - start).and_then(|()| (&*self.file).seek(SeekFrom::End(0)).map(drop));
            self.failed = cut.is_err();
            return Err(disk(&self.path, "writing")(error));
        }
        let begun_at = self.position;
        self.position += bytes.len() as u64;
        match line {
            Line::Begun(call) => {
                self.open.insert(call.borrow().id, begun_at);
            }
            Line::Progress(_) => {}
            Line::Ended(call) => {
                self.open.remove(&call.borrow().id);
            }
        }
        Ok(self.position)
    }

    fn begin_segment(&mut self, folder: &Path) -> Result<(), JournalError> {
        let path = folder.join(format!("{:020}.journal", self.position));
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(disk(&path, "beginning a segment"))?;
        // The folder's entry has to be as durable as what is written to the file.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk(folder, "flushing the folder"))?;
        self.file = Arc::new(file);
        self.path.clone_from(&path);
        self.segments.insert(self.position, path);
        Ok(())
    }

    /// Removes segments that nobody needs.
    fn forget(&mut self) -> Result<(), JournalError> {
        while let Some((next, _)) = self.segments.iter().nth(1) {
            let needed = *next > self.cursor || self.open.values().any(|begun_at| begun_at < next);
            if needed {
                break;
            }
            let Some((_, path)) = self.segments.pop_first() else { break };
            fs::remove_file(&path).map_err(disk(&path, "removing"))?;
        }
        Ok(())
    }
}

/// Lines of one segment, one after the other.
struct Segment {
    path: PathBuf,
    start: u64,
    position: u64,
    end: u64,
    reader: io::BufReader<File>,
    /// Of the line before `position`.
    text: Vec<u8>,
}

impl Segment {
    fn open(path: &Path, start: u64, from: u64, end: u64) -> Result<Self, JournalError> {
        let mut file = File::open(path).map_err(disk(path, "opening"))?;
        file.seek(SeekFrom::Start(from - start)).map_err(disk(path, "reading"))?;
        Ok(Self {
            path: path.to_owned(),
            start,
            position: from,
            end,
            reader: io::BufReader::new(file),
            text: Vec::new(),
        })
    }

    fn next(&mut self) -> Result<Option<Line>, JournalError> {
        let before = self.position;
        if self.next_text()?.is_none() {
            return Ok(None);
        }
        let line = self.line();
        if line.is_err() {
            self.position = before;
        }
        line.map(Some)
    }

    /// The line that [`Segment::next_text`] has read.
    fn line(&self) -> Result<Line, JournalError> {
        let offset = self.position - self.start - (HEAD_BYTES + self.text.len()) as u64;
        serde_json::from_slice(&self.text).map_err(|_| JournalError::Damaged { path: self.path.clone(), offset })
    }

    /// The text of the next line, which is as it was written.
    fn next_text(&mut self) -> Result<Option<&[u8]>, JournalError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let damaged = || JournalError::Damaged { path: self.path.clone(), offset: self.position - self.start };
        let mut head = [0; HEAD_BYTES];
        let left = self.end - self.position;
        if left < HEAD_BYTES as u64 {
            return Err(damaged());
        }
        self.reader.read_exact(&mut head).map_err(disk(&self.path, "reading"))?;
        let (length, crc) = parts_of(head);
        let length = usize::try_from(length).ok().filter(|length| *length <= LINE_BYTES).ok_or_else(damaged)?;
        if left < (HEAD_BYTES + length) as u64 {
            return Err(damaged());
        }
        self.text.resize(length, 0);
        self.reader.read_exact(&mut self.text).map_err(disk(&self.path, "reading"))?;
        if crc32fast::hash(&self.text) != crc {
            return Err(damaged());
        }
        self.position += (HEAD_BYTES + length) as u64;
        Ok(Some(&self.text))
    }
}

/// Reads what a process before has left.
fn recover(folder: &Path, cursor: u64) -> Result<(Writer, Vec<CallRecord>), JournalError> {
    let mut segments = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(disk(folder, "listing"))? {
        let path = entry.map_err(disk(folder, "listing"))?.path();
        let start = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".journal")?.parse::<u64>().ok());
        if let Some(start) = start {
            segments.insert(start, path);
        }
    }
    let mut open: HashMap<Uuid, (u64, CallRecord)> = HashMap::new();
    let mut position = 0;
    let mut cursor_is_boundary = false;
    let starts: Vec<u64> = segments.keys().copied().collect();
    for (index, start) in starts.iter().enumerate() {
        let Some(path) = segments.get(start) else { continue };
        let next = starts.get(index + 1).copied();
        let length = fs::metadata(path).map_err(disk(path, "reading"))?.len();
        let end = next.unwrap_or(start + length);
        let mut reader = Segment::open(path, *start, *start, end)?;
        loop {
            let before = reader.position;
            cursor_is_boundary |= before == cursor;
            match reader.next() {
                Ok(None) => break,
                Ok(Some(Line::Ended(call))) => drop(open.remove(&call.id)),
                Ok(Some(Line::Begun(call))) => drop(open.insert(call.id, (before, call))),
                Ok(Some(Line::Progress(call))) => {
                    if let Some((_, known)) = open.get_mut(&call.id) {
                        *known = call;
                    }
                }
                Err(JournalError::Damaged { .. }) if next.is_none() && !more_follows(path, before - start)? => {
                    tracing::warn!("{}: the last line was cut off by a crash, and is removed", path.display());
                    let file = OpenOptions::new().write(true).open(path).map_err(disk(path, "opening"))?;
                    file.set_len(before - start).map_err(disk(path, "cutting"))?;
                    file.sync_all().map_err(disk(path, "flushing"))?;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        position = position.max(reader.position);
    }
    let path = match segments.last_key_value() {
        Some((_, path)) => path.clone(),
        None => folder.join(format!("{position:020}.journal")),
    };
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(disk(&path, "opening"))?;
    if segments.is_empty() {
        segments.insert(position, path.clone());
    }
    let begun = open.iter().map(|(id, (begun_at, _))| (*id, *begun_at)).collect();
    let mut unfinished: Vec<CallRecord> = open.into_values().map(|(_, call)| call).collect();
    unfinished.sort_by_key(|call| (call.started_at, call.id));
    // What is settled again changes nothing: a cursor that was not written well begins anew.
    let first = segments.keys().next().copied().unwrap_or(position);
    let cursor = if cursor_is_boundary { cursor } else { first };
    Ok((Writer { file: Arc::new(file), path, segments, position, open: begun, cursor, failed: false }, unfinished))
}

/// Whether a good line follows a bad one somewhere: then it was not cut off, but damaged.
fn more_follows(path: &Path, from: u64) -> Result<bool, JournalError> {
    let bytes = fs::read(path).map_err(disk(path, "reading"))?;
    let rest = bytes.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
    Ok((1..rest.len()).any(|offset| {
        let Some((length, crc)) = rest[offset..].first_chunk::<HEAD_BYTES>().copied().map(parts_of) else {
            return false;
        };
        let text = rest.get(offset + HEAD_BYTES..).and_then(|text| text.get(..length as usize));
        length > 0 && text.is_some_and(|text| crc32fast::hash(text) == crc)
    }))
}

/// Length and checksum.
fn parts_of(head: [u8; HEAD_BYTES]) -> (u32, u32) {
    let both = u64::from_le_bytes(head);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the length, the upper one the checksum")]
    let parts = (both as u32, (both >> 32) as u32);
    parts
}

fn holder(folder: &Path) -> Result<LeaseHolder, JournalError> {
    let path = folder.join("holder");
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| disk(&path, "reading")(io::Error::new(io::ErrorKind::InvalidData, error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let holder = LeaseHolder::from_uuid(Uuid::new_v4());
            let next = folder.join("holder.next");
            let mut file = File::create(&next).map_err(disk(&next, "making"))?;
            file.write_all(holder.to_string().as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(disk(&next, "writing"))?;
            fs::rename(&next, &path).map_err(disk(&path, "replacing"))?;
            Ok(holder)
        }
        Err(error) => Err(disk(&path, "reading")(error)),
    }
}

fn lines_of(path: &Path) -> Result<u64, JournalError> {
    match fs::read(path) {
        Ok(text) => Ok(memchr::memchr_iter(b'\n', &text).count() as u64),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(disk(path, "reading")(error)),
    }
}

/// A cursor that cannot be read is at the beginning: what is settled again changes nothing.
fn read_cursor(folder: &Path) -> Result<u64, JournalError> {
    let path = folder.join("cursor");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().unwrap_or(0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(disk(&path, "reading")(error)),
    }
}

fn disk(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |error| JournalError::Disk { path, what, error }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
