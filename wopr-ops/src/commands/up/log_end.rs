//! Whether a database that was to read its log to the end has done so.
//!
//! PostgreSQL takes for the end whatever it cannot read on from: a piece that is not in the archive, though later ones are, or
//! one whose bytes make no sense. It then serves without a word what it has by then. Where it stopped is in the history of
//! the line that it began; how far the log goes is in the names of the archive's pieces. The newest piece may end within a
//! record whose rest never came. PostgreSQL stops before that record, and the piece is as it was written.

use std::fmt;

use anyhow::Context;
use bollard::Docker;
use serde::Deserialize;

use super::recovering::answer;
use crate::{
    exec::ready::output_of,
    failure::{Exit, Failure},
    plan::archive::STANZA,
};

/// How many bytes of the log a piece of it has.
const PIECE: u64 = 16 << 20;
/// How long the name of a piece is. Whatever is more in the name of a file begins with something else than a dash unless the
/// file is a whole piece.
pub(crate) const PIECE_NAME: usize = 24;
/// How long the name of the directory is that a piece is in: so much of the piece's own.
const PART_NAME: usize = 16;
/// Where a piece is put to be looked at.
const BROUGHT: &str = "/tmp/last-piece";

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position(u64);

impl Position {
    /// As PostgreSQL writes it: two halves in hexadecimal.
    fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
        Some(Self((half(high)? << 32) | half(low)?))
    }

    /// The piece of that line of history that goes on from here.
    fn piece(self, timeline: u32) -> String {
        format!("{timeline:08X}{:08X}{:08X}", self.0 >> 32, (self.0 & u64::from(u32::MAX)) / PIECE)
    }

    /// Where the piece after the one that goes on from here begins.
    const fn next_piece(self) -> Self {
        Self((self.0 / PIECE + 1) * PIECE)
    }

    /// Where the piece of that name ends.
    fn end_of(name: &str) -> Option<Self> {
        let number = |range| u64::from_str_radix(name.get(range)?, 16).ok();
        Some(Self((number(8..16)? << 32) + (number(16..PIECE_NAME)? + 1) * PIECE))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// A line of history, and where it was left for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    timeline: u32,
    at: Position,
}

/// The lines before the present one, the oldest first.
fn lines_before(history: &str) -> anyhow::Result<Vec<Left>> {
    let line = |text: &str| {
        let mut words = text.split_whitespace();
        Some(Left { timeline: words.next()?.parse().ok()?, at: Position::parse(words.next()?)? })
    };
    let told = history.lines().filter(|text| !text.trim().is_empty() && !text.starts_with('#'));
    told.map(|text| line(text).with_context(|| format!("a history has the line {text:?}"))).collect()
}

/// What `pgbackrest info --output=json` says of a stanza, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Stanza {
    archive: Vec<Archive>,
    db: Vec<Database>,
}

#[derive(Debug, Deserialize)]
struct Archive {
    id: String,
    database: DatabaseId,
}

#[derive(Debug, Deserialize)]
struct DatabaseId {
    id: u32,
}

#[derive(Debug, Deserialize)]
struct Database {
    id: u32,
    #[serde(rename = "system-id")]
    cluster: i64,
}

/// Where the archive has the log of that cluster.
fn directory(info: &str, cluster: i64) -> anyhow::Result<String> {
    let stanzas: Vec<Stanza> = serde_json::from_str(info).with_context(|| format!("pgbackrest says {info}"))?;
    let stanza = stanzas.first().context("pgbackrest knows of no archive")?;
    let database = stanza.db.iter().find(|database| database.cluster == cluster);
    let archive = database.and_then(|database| stanza.archive.iter().find(|found| found.database.id == database.id));
    let archive = archive.with_context(|| format!("the archive has nothing of the database {cluster}: {info}"))?;
    Ok(format!("archive/platform/{}", archive.id))
}

/// Whether that file is the whole piece of that name.
fn is_of(file: &str, piece: &str) -> bool {
    file.strip_prefix(piece).is_some_and(|rest| rest.starts_with('-'))
}

/// The newest of what is listed of that line of history: a directory, or a whole piece in one.
fn newest(listing: &str, timeline: u32) -> Option<&str> {
    let is_whole = |name: &&str| name.as_bytes().get(PIECE_NAME).is_none_or(|byte| *byte == b'-');
    let of_line = |name: &&str| name.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok()) == Some(timeline);
    listing.lines().map(str::trim).filter(|name| of_line(name) && is_whole(name)).max()
}

/// Whether a piece has the sum that the name of its file tells.
fn is_as_written(piece: &str, sum: &str) -> bool {
    let told = piece.get(PIECE_NAME + 1..).unwrap_or_default();
    sum.split_whitespace().any(|word| word.len() == 40 && told.starts_with(word))
}

/// Makes sure that the database has read all that the archive has of its log. It must serve by now, and must have put nothing into
/// the archive itself: another reader would follow the line that it began.
///
/// # Errors
/// [`Exit::Check`] with both ends, if it has not; what the database or the archive does not tell.
pub(crate) async fn has_read_all(engine: &Docker, database: &str) -> anyhow::Result<()> {
    let query = "SELECT pg_read_file('pg_wal/' || upper(lpad(to_hex(timeline_id), 8, '0')) || '.history') \
                 FROM pg_control_checkpoint()";
    let lines = lines_before(&answer(engine, database, query).await?)?;
    let read = lines.last().context("the database has no line of history before the present one")?;
    let cluster = answer(engine, database, "SELECT system_identifier FROM pg_control_system()").await?;
    let cluster = cluster.parse().with_context(|| format!("the database says it is {cluster:?}"))?;
    let archive = async |command: &[&str]| {
        let quiet = ["pgbackrest", STANZA, "--log-level-console=off", "--log-level-stderr=error"];
        output_of(engine, database, &[&quiet, command].concat()).await
    };
    let directory = directory(&archive(&["info", "--output=json"]).await?, cluster)?;
    let listing = archive(&["repo-ls", &directory]).await?;
    let piece = match newest(&listing, read.timeline) {
        Some(part) => {
            let listing = archive(&["repo-ls", &format!("{directory}/{part}")]).await?;
            newest(&listing, read.timeline).map(str::to_owned)
        }
        None => None,
    };
    // A line of which nothing came into the archive ends where it began.
    let before = lines.iter().rev().nth(1).map(|line| line.at);
    let end = piece.as_deref().and_then(Position::end_of).or(before);
    let end = end.context("the archive has no piece of the log that was read")?;
    if read.at >= end {
        return Ok(());
    }
    let line_at = |at| lines.iter().find(|line| line.at > at).unwrap_or(read).timeline;
    let here = read.at.piece(line_at(read.at));
    let is_whole = async {
        let part = archive(&["repo-ls", &format!("{directory}/{}", &here[..PART_NAME])]).await?;
        let Some(file) = part.lines().map(str::trim).find(|file| is_of(file, &here)) else { return Ok(false) };
        let bring = format!("pgbackrest {STANZA} archive-get {here} {BROUGHT} && sha1sum {BROUGHT}; rm -f {BROUGHT}");
        anyhow::Ok(is_as_written(file, &output_of(engine, database, &["sh", "-c", &bring]).await?))
    };
    let is_whole = is_whole.await?;
    if is_whole && piece.is_some_and(|newest| is_of(&newest, &here)) {
        return Ok(());
    }
    // A piece that is whole may end within a record: then the next is to blame.
    let next = read.at.next_piece();
    let missing = if is_whole { next.piece(line_at(next)) } else { here };
    Err(Failure::new(Exit::Check, format!("{database} has not read its log to the end"))
        .why(format!(
            "it read to {}, and the archive has it to {end}: the piece {missing} is missing or damaged",
            read.at
        ))
        .fix(
            "the same command reads it again; `--to` with an instant before that, or `--from-set`, takes what is whole",
        )
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_where_each_line_was_left() {
        let history = "1\t0/9000000\tno recovery target specified\n\n2\t1/A0000028\tbefore 2026-11-22 10:00:00+00\n";
        let left = |timeline, at: &str| Left { timeline, at: Position::parse(at).unwrap() };
        assert_eq!(lines_before(history).unwrap(), [left(1, "0/9000000"), left(2, "1/A0000028")]);
        for text in ["1\n", "one 0/9000000 x\n", "1 0-9000000 x\n"] {
            assert!(lines_before(text).is_err(), "{text}");
        }
        assert!(lines_before("").unwrap().is_empty());
    }

    #[test]
    fn a_piece_ends_where_the_next_begins() {
        let ends = [
            ("000000010000000000000008", "0/9000000"),
            ("0000000100000000000000FF", "1/0"),
            ("00000002000000010000000A-0badc0de.zst", "1/B000000"),
        ];
        for (name, end) in ends {
            assert_eq!(Position::end_of(name).unwrap().to_string(), end, "{name}");
        }
        assert_eq!(Position::end_of("00000001"), None);
        for at in ["1/A000000", "1/A007CF8", "1/AFFFFFF"] {
            assert_eq!(Position::parse(at).unwrap().piece(2), "00000002000000010000000A", "{at}");
            assert_eq!(Position::parse(at).unwrap().next_piece().to_string(), "1/B000000", "{at}");
        }
        assert_eq!(Position::parse("0/FF000028").unwrap().next_piece().piece(1), "000000010000000100000000");
    }

    #[test]
    fn the_newest_piece_is_a_whole_one_of_the_same_line() {
        let listing = "000000010000000000000009-0badc0de.zst\n00000001000000000000000A-0badc0de.zst\n\
                       00000001000000000000000B.partial-0badc0de.zst\n00000001000000000000000C.00000028.backup\n\
                       00000002000000000000000D-0badc0de.zst\n00000002.history\n";
        assert_eq!(newest(listing, 1), Some("00000001000000000000000A-0badc0de.zst"));
        assert_eq!(newest(listing, 2), Some("00000002000000000000000D-0badc0de.zst"));
        assert_eq!(newest(listing, 3), None);
        assert_eq!(newest("0000000100000000\n0000000100000001\n0000000200000000\n", 1), Some("0000000100000001"));
    }

    #[test]
    fn a_file_is_of_the_piece_that_it_is_named_for() {
        let piece = "00000001000000000000000A";
        assert!(is_of("00000001000000000000000A-0badc0de.zst", piece));
        for other in [
            "00000001000000000000000A",
            "00000001000000000000000A.partial-0badc0de.zst",
            "00000001000000000000000B-0badc0de.zst",
        ] {
            assert!(!is_of(other, piece), "{other}");
        }
    }

    #[test]
    fn a_piece_is_as_written_if_it_has_the_sum_of_its_name() {
        let sum = "48a973ac968198ae3c9fcc7c27657735ea2cf87e";
        let piece = format!("00000005000000000000002D-{sum}.zst");
        assert!(is_as_written(&piece, &format!("{sum}  /tmp/last-piece\n")));
        for other in ["", "48a9", "58a973ac968198ae3c9fcc7c27657735ea2cf87e  /tmp/last-piece"] {
            assert!(!is_as_written(&piece, other), "{other}");
        }
    }

    #[test]
    fn the_archive_of_a_database_is_that_of_its_cluster() {
        let info = r#"[{"archive":[{"database":{"id":1},"id":"15-1"},{"database":{"id":2},"id":"15-2"}],
            "db":[{"id":1,"system-id":7},{"id":2,"system-id":8}],"name":"platform"}]"#;
        assert_eq!(directory(info, 8).unwrap(), "archive/platform/15-2");
        for (text, cluster) in [(info, 9), ("[]", 8), ("no", 8)] {
            assert!(directory(text, cluster).is_err(), "{text}");
        }
    }
}
