//! The probe of GPU services, against servers on loopback ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Redirect;
use axum::routing::get;
use tokio::net::TcpListener;
use wopr_core::adapters::inference::HttpProbe;
use wopr_core::gpu::{Host, ProbeError, ServiceProbe as _};
use wopr_core::protocol::gpu::GpuService;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn only_2xx_is_well_and_the_token_goes_where_it_is_meant_to_and_no_further() {
    let (thief, thief_address) = listen().await;
    let caught = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&caught);
    let trap = Router::new().fallback(async move || {
        counter.fetch_add(1, Ordering::SeqCst);
        StatusCode::OK
    });
    tokio::spawn(async move { axum::serve(thief, trap).await });

    let (listener, address) = listen().await;
    let authorized = async |headers: HeaderMap| match headers.get("authorization") {
        Some(value) if value == "Bearer token" => StatusCode::NO_CONTENT,
        _ => StatusCode::UNAUTHORIZED,
    };
    let elsewhere = format!("http://{thief_address}/health");
    let router = Router::new()
        .route("/health", get(authorized))
        .route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE))
        .route("/moved", get(async move || Redirect::temporary(&elsewhere)));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let probe = HttpProbe::new().unwrap();
    let token = "token".into();
    let ask = async |path: &str| probe.ask(&format!("http://{address}{path}"), Some(&token)).await;
    assert!(ask("/health").await.is_ok());
    assert_eq!(probe.ask(&format!("http://{address}/health"), None).await, Err(ProbeError::Status(401)));
    assert_eq!(ask("/busy").await, Err(ProbeError::Status(503)));
    assert_eq!(ask("/none").await, Err(ProbeError::Status(404)));
    assert_eq!(ask("/moved").await, Err(ProbeError::Status(307)));
    assert_eq!(caught.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn nobody_and_somebody_who_says_nothing_are_told_apart() {
    let (closed, address) = listen().await;
    drop(closed);
    let probe = HttpProbe::within(Duration::from_millis(300)).unwrap();
    assert_eq!(probe.ask(&format!("http://{address}/health"), None).await, Err(ProbeError::Unreachable));
    // Connections are taken by the system and never answered.
    let (_silent, address) = listen().await;
    assert_eq!(probe.ask(&format!("http://{address}/health"), None).await, Err(ProbeError::TimedOut));
    let nowhere: Host = "no-such-host.invalid".parse().unwrap();
    assert!(probe.probe(&nowhere, GpuService::Llama, None).await.is_err());
}
