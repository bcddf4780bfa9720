//! Disks of the machines' own: what is asked for, and whether it can still be had.

use crate::failure::{Exit, Failure};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
/// The images of either machine, its services' data and some bots.
const LEAST: u64 = 2 * GIB;

/// Reads a size: a number of MiB or GiB, as `512M` or `8G`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let unit = match text.chars().last() {
        Some('M') => MIB,
        Some('G') => GIB,
        _ => return Err("a size is a number and M or G, as in 8G".to_owned()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|error| format!("{error}"))?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes >= LEAST => Ok(bytes),
        Some(_) => Err(format!("a machine needs {} at least", shown(LEAST))),
        None => Err("there is no such disk".to_owned()),
    }
}

/// `8.0 GiB`, `512 MiB`.
pub(crate) fn shown(bytes: u64) -> String {
    if bytes >= GIB {
        let tenths = bytes / (GIB / 10);
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    } else {
        format!("{} MiB", bytes / MIB)
    }
}

/// What is there of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct There {
    /// The size of the disk of its own, if it has one.
    pub(crate) disk_bytes: Option<u64>,
    /// Whether it has data.
    pub(crate) has_data: bool,
}

/// The size of the disk that has to be made for a machine, if one has.
///
/// # Errors
/// If it has another one, or its data is on this machine's disk already.
pub(crate) fn to_make(machine: &str, asked: Option<u64>, there: There) -> Result<Option<u64>, Failure> {
    let refused = |why: String| {
        Failure::new(Exit::Environment, format!("{machine} cannot be given a disk of its own any more"))
            .why(why)
            .fix("`cargo wopr down --volumes` removes it with its data; then `up --disk` makes it with one")
    };
    match (asked, there.disk_bytes) {
        (None, _) => Ok(None),
        (Some(asked), Some(has)) if asked == has => Ok(None),
        (Some(asked), Some(has)) => Err(refused(format!("it has one of {}, not {}", shown(has), shown(asked)))),
        (Some(_), None) if there.has_data => Err(refused("it has data, which is on this machine's disk".to_owned())),
        (Some(asked), None) => Ok(Some(asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        assert_eq!(size("8G"), Ok(8 * GIB));
        assert_eq!(size("2048M"), Ok(2 * GIB));
        for wrong in ["", "8", "G", "8T", "-8G", "1G", "é", "99999999999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!([shown(512 * MIB), shown(GIB), shown(GIB * 5 / 2)], ["512 MiB", "1.0 GiB", "2.5 GiB"]);
    }

    #[test]
    fn a_disk_is_made_once_and_before_there_is_data() {
        let there = |disk_bytes, has_data| There { disk_bytes, has_data };
        let made = |asked, there| to_make("wopr-vps", asked, there).map_err(|failure| failure.why.unwrap());
        assert_eq!(made(None, there(None, false)), Ok(None));
        assert_eq!(made(None, there(Some(GIB), true)), Ok(None));
        assert_eq!(made(Some(4 * GIB), there(None, false)), Ok(Some(4 * GIB)));
        assert_eq!(made(Some(4 * GIB), there(Some(4 * GIB), true)), Ok(None));
        assert!(made(Some(4 * GIB), there(Some(8 * GIB), true)).unwrap_err().contains("8.0 GiB, not 4.0 GiB"));
        assert!(made(Some(4 * GIB), there(None, true)).unwrap_err().contains("this machine's disk"));
    }
}
