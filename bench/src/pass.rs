//! The least that a proxy does with the libraries the gateway is made of: a body is read, asked elsewhere, and what comes
//! back is handed on as it comes. No keys, no prices, nothing written down.

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::post;

#[derive(Clone)]
struct Target {
    client: reqwest::Client,
    url: String,
}

/// Serves on a port of its own, which it says, until its input ends.
pub(crate) async fn serve(upstream: String) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    // What it is asked over is never encrypted: it needs no roots.
    let tls =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .context("no client")?;
    let target = Target { client, url: format!("{upstream}/v1/chat/completions") };
    let listener = crate::process::announce().await?;
    let app = Router::new().route("/v1/chat/completions", post(pass)).with_state(target);
    tokio::select! {
        ended = crate::process::input_ends() => ended,
        ended = axum::serve(listener, app).into_future() => Ok(ended?),
    }
}

async fn pass(State(target): State<Target>, headers: HeaderMap, body: Bytes) -> Result<Response, StatusCode> {
    let request = target.client.post(&target.url).header(header::CONTENT_TYPE, "application/json");
    let key = headers.get(header::AUTHORIZATION).cloned();
    let request = key.into_iter().fold(request, |request, key| request.header(header::AUTHORIZATION, key));
    let answer = request.body(body).send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    Ok(response)
}
