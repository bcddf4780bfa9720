//! Showing mail, to people and to programs.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::mailbox::{Mail, Mailbox};
use crate::stripe::pages::escape;

pub(super) async fn serve(listener: TcpListener, mailbox: Arc<Mailbox>, mut stop: watch::Receiver<bool>) {
    let app = Router::new()
        .route("/", get(list_page))
        .route("/mails/{id}", get(mail_page))
        .route("/api/mails", get(list).delete(clear))
        .route("/api/mails/{id}", get(show))
        .route("/api/mails/{id}/raw", get(raw))
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .with_state(mailbox);
    let until = async move {
        // An error means the handle is gone, which is also a reason to stop.
        let _stopped = stop.changed().await;
    };
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(until).await {
        tracing::error!("serving failed: {error}");
    }
}

fn summary(mail: &Mail) -> Value {
    json!({
        "id": mail.id, "from": mail.from, "to": mail.to, "subject": mail.parsed.subject,
        "received_at": mail.received_at, "size_bytes": mail.raw.len(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    to: Option<String>,
}

async fn list(State(mailbox): State<Arc<Mailbox>>, Query(filter): Query<Filter>) -> Json<Value> {
    let mails: Vec<Value> = mailbox.list(filter.to.as_deref()).iter().map(|mail| summary(mail)).collect();
    Json(json!({ "mails": mails }))
}

fn missing() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": "no such mail" }))).into_response()
}

async fn show(State(mailbox): State<Arc<Mailbox>>, Path(id): Path<u64>) -> Response {
    let Some(mail) = mailbox.find(id) else { return missing() };
    let mut shown = summary(&mail);
    let headers: Vec<Value> =
        mail.parsed.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    shown["headers"] = json!(headers);
    shown["text"] = json!(mail.parsed.text);
    shown["html"] = json!(mail.parsed.html);
    shown["attachments"] = json!(mail.parsed.attachments);
    Json(shown).into_response()
}

async fn raw(State(mailbox): State<Arc<Mailbox>>, Path(id): Path<u64>) -> Response {
    let Some(mail) = mailbox.find(id) else { return missing() };
    // As plain text, so that no browser acts on what a mail contains.
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, mail.raw.clone()).into_response()
}

async fn clear(State(mailbox): State<Arc<Mailbox>>) -> Response {
    let cleared = tokio::task::spawn_blocking(move || mailbox.clear()).await;
    match cleared {
        Ok(Ok(count)) => Json(json!({ "deleted": count })).into_response(),
        Ok(Err(error)) => {
            tracing::error!("mails were not removed: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))).into_response()
        }
        Err(error) => {
            tracing::error!("mails were not removed: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn page(title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title><style>\
         body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}table{{width:100%;\
         border-collapse:collapse}}td,th{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}}\
         pre{{white-space:pre-wrap}}iframe{{width:100%;height:30rem;border:1px solid #ddd}}</style></head><body>{body}</body></html>",
        escape(title)
    );
    let mut response = Html(html).into_response();
    // The frame with a mail's HTML inherits this: no scripts, nothing from elsewhere.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

async fn list_page(State(mailbox): State<Arc<Mailbox>>) -> Response {
    let mut rows = String::new();
    for mail in mailbox.list(None) {
        let subject = if mail.parsed.subject.is_empty() { "(no subject)" } else { &mail.parsed.subject };
        // Writing to a string cannot fail.
        let _written = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td><a href=\"/mails/{}\">{}</a></td></tr>",
            mail.received_at,
            escape(&mail.from),
            escape(&mail.to.join(", ")),
            mail.id,
            escape(subject)
        );
    }
    let body =
        format!("<h1>Mail</h1><table><tr><th>Received</th><th>From</th><th>To</th><th>Subject</th></tr>{rows}</table>");
    page("Mail", &body)
}

/// Plain text with its addresses made clickable.
fn linked(text: &str) -> String {
    let mut html = String::new();
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        if word.starts_with("http://") || word.starts_with("https://") {
            let safe = escape(word);
            let _written = write!(html, "<a href=\"{safe}\" target=\"_blank\" rel=\"noopener noreferrer\">{safe}</a>");
            html.push_str(&piece[word.len()..]);
        } else {
            html.push_str(&escape(piece));
        }
    }
    html
}

async fn mail_page(State(mailbox): State<Arc<Mailbox>>, Path(id): Path<u64>) -> Response {
    let Some(mail) = mailbox.find(id) else {
        return (StatusCode::NOT_FOUND, page("Mail", "<p>No such mail.</p>")).into_response();
    };
    let parsed = &mail.parsed;
    let mut body = format!(
        "<p><a href=\"/\">All mail</a> · <a href=\"/api/mails/{id}/raw\">as it came</a></p><h1>{}</h1><table>",
        escape(&parsed.subject)
    );
    for (name, value) in
        [("From", mail.from.clone()), ("To", mail.to.join(", ")), ("Received", mail.received_at.to_string())]
    {
        let _written = write!(body, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    body.push_str("</table>");
    if let Some(text) = &parsed.text {
        let _written = write!(body, "<pre>{}</pre>", linked(text));
    }
    if let Some(html) = &parsed.html {
        let framed = escape(&format!("<base target=\"_blank\">{html}"));
        let _written = write!(
            body,
            "<iframe sandbox=\"allow-popups allow-popups-to-escape-sandbox\" title=\"HTML\" srcdoc=\"{framed}\"></iframe>"
        );
    }
    for attachment in &parsed.attachments {
        let name = attachment.filename.as_deref().unwrap_or("unnamed");
        let _written = write!(
            body,
            "<p>Attached: {} ({}, {} bytes)</p>",
            escape(name),
            escape(&attachment.content_type),
            attachment.size_bytes
        );
    }
    page(&parsed.subject, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_text_are_clickable_and_nothing_else_is_markup() {
        let html = linked("go to http://a.example/?x=1&y=\"2\"\n<script>");
        assert!(html.contains("<a href=\"http://a.example/?x=1&amp;y=&quot;2&quot;\""), "{html}");
        assert!(html.ends_with("\n&lt;script&gt;"), "{html}");
    }
}
