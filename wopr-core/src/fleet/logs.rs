//! From the lines a bot wrote to lines with a level.

use jiff::Timestamp;

use super::ports::RawLogLine;

/// How serious a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// For the record.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_uppercase().as_str() {
            "TRACE" | "DEBUG" => Self::Debug,
            "INFO" | "NOTICE" => Self::Info,
            "WARN" | "WARNING" => Self::Warn,
            "ERROR" | "FATAL" => Self::Error,
            _ => return None,
        })
    }
}

/// A line of a bot's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub at: Option<Timestamp>,
    /// How serious it is.
    pub level: LogLevel,
    /// What it says.
    pub message: String,
}

/// Reads `<time> [LEVEL] message`, `<time> message`, `[LEVEL] message` and plain lines. What has no level of its own is
/// an error if it came on standard error.
pub(super) fn parse(raw: RawLogLine) -> LogLine {
    let mut at = raw.at;
    let mut text = raw.text.as_str();
    if let Some((first, rest)) = text.split_once(' ')
        && let Ok(time) = first.parse::<Timestamp>()
    {
        (at, text) = (Some(time), rest);
    }
    let tagged = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let tagged = tagged.and_then(|(word, rest)| LogLevel::from_word(word).map(|level| (level, rest.trim_start())));
    let untagged = if raw.is_stderr { LogLevel::Error } else { LogLevel::Info };
    let (level, message) = tagged.unwrap_or((untagged, text));
    LogLine { at, level, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_shape() {
        let engine: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        let own: Timestamp = "2027-01-15T07:59:59Z".parse().unwrap();
        let table = [
            ("2027-01-15T07:59:59Z [WARN] low", false, own, LogLevel::Warn, "low"),
            ("2027-01-15T07:59:59Z plain", false, own, LogLevel::Info, "plain"),
            ("[error] bad", false, engine, LogLevel::Error, "bad"),
            ("[1/3] step", false, engine, LogLevel::Info, "[1/3] step"),
            ("trouble", true, engine, LogLevel::Error, "trouble"),
            ("", false, engine, LogLevel::Info, ""),
        ];
        for (text, is_stderr, at, level, message) in table {
            let line = parse(RawLogLine { at: Some(engine), is_stderr, text: text.to_owned() });
            assert_eq!(line, LogLine { at: Some(at), level, message: message.to_owned() }, "{text}");
        }
    }
}
