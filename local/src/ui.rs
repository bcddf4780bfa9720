//! The page that stands where the dashboard will be: it says so, and links to what runs.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::stripe::pages::escape;

/// Where the page listens unless told otherwise.
pub const PORT: u16 = 3000;

/// Where a browser finds the parts that run.
#[derive(Debug, Clone)]
pub struct Links {
    /// The API, without a slash at the end.
    pub api: String,
    /// The page that shows mail.
    pub mail: Option<String>,
    /// The Stripe stand-in.
    pub stripe: Option<String>,
}

/// Serves the page until `until` is over.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    links: Links,
    until: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(&links)).with_graceful_shutdown(until).await
}

fn router(links: &Links) -> Router {
    let page = page(links);
    Router::new()
        .route("/", get(async move || Html(page)))
        .route("/health", get(async || axum::Json(serde_json::json!({ "status": "ok" }))))
        .fallback(missing)
}

async fn missing() -> Response {
    let text = "There is no such page here: the dashboard is not part of this stack.\n";
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn page(links: &Links) -> String {
    let api = links.api.trim_end_matches('/');
    let mut rows = row(&format!("{api}/health/ready"), "Is the API ready?");
    if let Some(mail) = &links.mail {
        rows.push_str(&row(mail, "Mail that was sent"));
    }
    if let Some(stripe) = &links.stripe {
        rows.push_str(&row(stripe, "The Stripe stand-in"));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>WOPR</title>\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}</style>\n\
         </head>\n<body>\n<h1>WOPR</h1>\n\
         <p>This page stands where the dashboard will be. It does nothing by itself; the platform is its API, \
         <code>{}</code>.</p>\n<ul>\n{rows}</ul>\n</body>\n</html>\n",
        escape(api)
    )
}

fn row(address: &str, text: &str) -> String {
    format!("<li><a href=\"{}\">{}</a></li>\n", escape(address), escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_links_to_what_there_is_and_escapes_it() {
        let links = Links { api: "http://x/\"><script>/".to_owned(), mail: Some("http://m".to_owned()), stripe: None };
        let page = page(&links);
        assert!(page.contains("href=\"http://m\"") && !page.contains("Stripe") && !page.contains("<script>"), "{page}");
        assert!(page.contains("/health/ready"), "{page}");
    }
}
