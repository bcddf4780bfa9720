//! Log lines as the platform reads them from bot containers: `<rfc3339> [LEVEL] message`, on standard output.

use std::fmt;
use std::sync::Arc;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Clock;

struct Line {
    clock: Arc<dyn Clock>,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "{:.3} [{}] ", self.clock.now(), event.metadata().level())?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Logs as `LOG_LEVEL` says (`error`, `warn`, `info`, `debug`, `trace`), by default from `info` up.
pub fn start(level: Option<&str>, clock: Arc<dyn Clock>) {
    let filter = EnvFilter::new(level.filter(|level| !level.is_empty()).unwrap_or("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .event_format(Line { clock })
        .with_writer(std::io::stdout)
        .init();
}
