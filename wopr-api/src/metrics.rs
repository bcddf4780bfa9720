//! `GET /metrics`: what this process has counted, in the text form that Prometheus reads.
//!
//! It has no pipeline: it is to be had when the database is away, and asks nothing of it for an operator's token but how it
//! stands with backups, which it does without when there is no answer at once.

use std::fmt::Display;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use jiff::Timestamp;
use wopr_core::auth::Scope;
use wopr_core::backup::Summary;
use wopr_core::gateway::{ErrorWindow, FIRST_BYTE_BOUNDS_MS, GatewayMetrics, ProviderHealth};

use crate::decimal;
use crate::error::chain;
use crate::extract::Credential;
use crate::routes::Entry;
use crate::state::AppState;

/// How long is waited for how it stands with backups.
const BACKUP_PATIENCE: Duration = Duration::from_secs(1);

const PATH: &str = "/metrics";
const TEXT_FORM: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(crate) fn router() -> Router<AppState> {
    Router::new().route(PATH, get(serve))
}

pub(crate) fn entries() -> impl Iterator<Item = Entry> {
    let access = "a bearer of the platform's own, of any scope".to_owned();
    std::iter::once(Entry { method: "GET".to_owned(), path: PATH.to_owned(), access })
}

async fn serve(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let Some(credential) = Credential::of(&headers) else {
        return (StatusCode::UNAUTHORIZED, "Authentication required\n").into_response();
    };
    let caller = match state.authenticate(&credential).await {
        Ok(Some(caller)) => caller,
        Ok(None) => return (StatusCode::UNAUTHORIZED, "Invalid or expired token\n").into_response(),
        Err(error) => {
            tracing::warn!("whoever asks for metrics cannot be looked up: {}", chain(&error));
            return (StatusCode::SERVICE_UNAVAILABLE, "The credential cannot be checked at present\n").into_response();
        }
    };
    // A tenant's credential is bound to it; the platform's own is bound to none.
    if caller.tenant_id.is_some() && !caller.platform_admin || !caller.scope.includes(Scope::Read) {
        return (StatusCode::FORBIDDEN, "A credential of the platform is needed\n").into_response();
    }
    let mut text = render(&state.gateway.metrics(), &state.gateway.providers());
    match tokio::time::timeout(BACKUP_PATIENCE, state.backups.summary()).await {
        Ok(Ok(summary)) => text.push_str(&summary.as_ref().map(backups).unwrap_or_default()),
        Ok(Err(error)) => tracing::info!("how it stands with backups is not known: {}", chain(&error)),
        Err(_) => tracing::info!("how it stands with backups is not known in time"),
    }
    ([(header::CONTENT_TYPE, TEXT_FORM)], text).into_response()
}

/// Backups, where they are on. A time that there is none of is not there.
fn backups(summary: &Summary) -> String {
    let mut text = Text::default();
    let help = "Bots, and the database, whose last backup failed or is older than a day.";
    text.one("wopr_backup_stale", "gauge", help, summary.stale);
    text.one("wopr_backup_tracked", "gauge", "Bots, and the database.", summary.tracked);
    let database = &summary.database;
    let times = [
        ("attempt", "When the last backup of the database was begun.", database.last_attempt_at),
        ("success", "When the last backup of the database was finished.", database.last_success_at()),
        ("proven", "When a backup of the database was last read back or restored.", database.last_proven_at),
    ];
    for (word, help, at) in times {
        text.time(&format!("wopr_backup_database_last_{word}_timestamp_seconds"), help, at);
    }
    if let Some(archive) = &database.archive {
        let times = [
            ("base_attempt", "When the last copy of the database's files was begun.", archive.last_attempt_at),
            ("base_success", "When the last copy of the database's files was finished.", archive.last_success_at()),
            ("base_proven", "When the archive of the log was last read back, or restored.", archive.last_proven_at),
            ("log_archived", "When a piece of the database's log was last archived.", archive.logged_at),
            ("log_refused", "When a piece of the database's log was last not archived.", archive.log_refused_at),
        ];
        for (word, help, at) in times {
            text.time(&format!("wopr_backup_database_last_{word}_timestamp_seconds"), help, at);
        }
    }
    text.0
}

/// The text as it grows.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("{name}{labels} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.push_str(&line.to_string());
        self.0.push('\n');
    }

    /// A family of one time, if there is one.
    fn time(&mut self, name: &str, help: &str, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.one(name, "gauge", help, at.as_second());
        }
    }

    /// A family of one sample without labels.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn decimal(value: u64, places: u32) -> String {
    decimal::text(i64::try_from(value).unwrap_or(i64::MAX), places)
}

fn millis(duration: std::time::Duration) -> String {
    decimal(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), 3)
}

fn render(metrics: &GatewayMetrics, providers: &[ProviderHealth]) -> String {
    let mut text = Text::default();
    text.family("wopr_build_info", "gauge", "What is running.");
    text.sample("wopr_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    counters(&mut text, metrics);
    first_bytes(&mut text, metrics);
    gauges(&mut text, metrics);
    let name = "wopr_gateway_provider_asked";
    text.family(name, "gauge", "1 while a provider is asked, 0 while it is left alone because it failed too often.");
    for provider in providers {
        let labels = [("provider", provider.offered_as.as_str()), ("name", provider.name.as_str())];
        text.sample(name, &labels, u8::from(provider.is_asked()));
    }
    text.0
}

fn counters(text: &mut Text, metrics: &GatewayMetrics) {
    let name = "wopr_gateway_requests_total";
    text.family(name, "counter", "Calls that were let in and ended, by who answered and how.");
    for count in &metrics.calls {
        let labels = [
            ("capability", count.capability.as_str()),
            ("provider", count.provider.as_str()),
            ("outcome", count.end.as_str()),
        ];
        text.sample(name, &labels, count.calls);
    }
    let name = "wopr_gateway_refusals_total";
    text.family(name, "counter", "Calls that were not let in, by the reason.");
    for (reason, count) in &metrics.refusals {
        text.sample(name, &[("reason", reason)], count);
    }
    let name = "wopr_gateway_provider_failures_total";
    text.family(name, "counter", "How often somebody was asked and did not answer; another may have.");
    for provider in &metrics.providers {
        for (kind, count) in provider.failures.iter().filter(|(_, count)| *count > 0) {
            text.sample(name, &[("provider", &provider.provider), ("reason", kind.as_str())], count);
        }
    }
    let help = "How often a provider's circuit opened.";
    text.one("wopr_gateway_circuit_trips_total", "counter", help, metrics.circuits_opened);
    let name = "wopr_gateway_tokens_total";
    text.family(name, "counter", "Tokens that were read and written.");
    for provider in &metrics.providers {
        for (direction, tokens) in [("input", provider.read_tokens), ("output", provider.written_tokens)] {
            if tokens > 0 {
                text.sample(name, &[("direction", direction), ("provider", &provider.provider)], tokens);
            }
        }
    }
    for (name, help) in [
        ("wopr_gateway_cost_usd_total", "What calls cost us."),
        ("wopr_gateway_charge_usd_total", "What calls were charged."),
    ] {
        text.family(name, "counter", help);
        for provider in &metrics.providers {
            for (capability, cost, charge) in &provider.money {
                let nanos = if name == "wopr_gateway_cost_usd_total" { cost } else { charge };
                let labels = [("capability", capability.as_str()), ("provider", provider.provider.as_str())];
                text.sample(name, &labels, decimal(*nanos, 9));
            }
        }
    }
}

fn first_bytes(text: &mut Text, metrics: &GatewayMetrics) {
    let name = "wopr_gateway_time_to_first_byte_seconds";
    text.family(name, "histogram", "From the admission of a call until its answer begins.");
    for provider in metrics.providers.iter().filter(|provider| provider.first_bytes > 0) {
        let labels = [("provider", provider.provider.as_str())];
        let bounds = FIRST_BYTE_BOUNDS_MS.iter().map(|bound| decimal(*bound, 3)).chain(["+Inf".to_owned()]);
        let counts = provider.first_byte.iter().copied().chain([provider.first_bytes]);
        for (bound, count) in bounds.zip(counts) {
            text.sample(&format!("{name}_bucket"), &[labels[0], ("le", &bound)], count);
        }
        text.sample(&format!("{name}_sum"), &labels, decimal(provider.first_byte_sum_ms, 3));
        text.sample(&format!("{name}_count"), &labels, provider.first_bytes);
    }
}

fn gauges(text: &mut Text, metrics: &GatewayMetrics) {
    text.one("wopr_gateway_accepting", "gauge", "1 while calls are let in.", u8::from(metrics.accepting));
    text.one("wopr_gateway_in_flight", "gauge", "Calls in progress.", metrics.in_flight);
    let name = "wopr_gateway_error_ratio";
    text.family(name, "gauge", "Errors of calls in the last minutes of this process; 0 where there were no calls.");
    let windows = [("5m", &metrics.last_five_minutes), ("60m", &metrics.last_hour)];
    for (window, errors) in windows {
        text.sample(name, &[("window", window)], ratio(errors));
    }
    let name = "wopr_gateway_window_requests";
    text.family(name, "gauge", "Calls that these ratios are of.");
    for (window, errors) in windows {
        text.sample(name, &[("window", window)], errors.all.requests);
    }
    let help = "Bytes of the journal that are not settled in the database.";
    text.one("wopr_gateway_unsettled_bytes", "gauge", help, metrics.unsettled_bytes);
    let help = "How long the oldest charge of the journal has been waiting to be settled.";
    text.one("wopr_gateway_settlement_lag_seconds", "gauge", help, millis(metrics.unsettled_for));
    let help = "Calls that the database refused and that wait for somebody to look at them.";
    text.one("wopr_meter_dlq_depth", "gauge", help, metrics.set_aside);
    let help = "Credit that is leased to this process and reserved by no call.";
    text.one("wopr_gateway_leased_free_usd", "gauge", help, decimal::text(metrics.leased_free.as_nanos(), 9));
    let help = "When the database was last heard of; beyond five seconds nobody is let in.";
    text.one("wopr_gateway_database_heard_seconds", "gauge", help, millis(metrics.heard_ago));
}

/// Errors of requests, 0 to 1.
pub(crate) fn ratio(window: &ErrorWindow) -> String {
    decimal(window.all.per_million(), 6)
}

#[cfg(test)]
mod tests {
    use wopr_core::gateway::{CallCount, CallEnd, Capability, ErrorRate, FailureKind, ProviderCounts};
    use wopr_core::money::Money;

    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let chat = Capability::ChatCompletions;
        let rate = ErrorRate { requests: 3, errors: 1 };
        let metrics = GatewayMetrics {
            calls: vec![CallCount { capability: chat, provider: "p\"q\\".to_owned(), end: CallEnd::Ok, calls: 2 }],
            providers: vec![ProviderCounts {
                provider: "p\"q\\".to_owned(),
                read_tokens: 7,
                written_tokens: 0,
                money: vec![(chat, 1_500_000_000, 2_400)],
                failures: vec![(FailureKind::Busy, 1), (FailureKind::Failed, 0)],
                first_byte: vec![0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
                first_bytes: 2,
                first_byte_sum_ms: 70_030,
            }],
            refusals: vec![("rate_limited", 4)],
            circuits_opened: 1,
            in_flight: 1,
            last_five_minutes: ErrorWindow { by_capability: vec![(chat, rate)], all: rate },
            last_hour: ErrorWindow::default(),
            unsettled_bytes: 9,
            unsettled_for: Duration::from_millis(1_250),
            set_aside: 0,
            leased_free: Money::from_cents(5),
            heard_ago: Duration::from_millis(3),
            accepting: true,
        };
        let provider = ProviderHealth {
            name: "n1/llama".to_owned(),
            offered_as: "gpu-llama".to_owned(),
            own: true,
            paused_for: Some(Duration::from_secs(1)),
            failures_in_a_row: 5,
            answered_at: None,
            failed_at: None,
            failure: None,
        };
        let text = render(&metrics, &[provider]);
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "[version]"));
    }
}
