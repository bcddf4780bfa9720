//! An S3-speaking object store for local stacks: buckets are directories, objects are files.
//!
//! Unlike S3, putting an object into a bucket that does not exist makes the bucket.
//!
//! Requests are signed with one pair of keys; unsigned ones are refused. [`HEALTH`] needs no signature (no bucket can be called
//! `-`): 200 while the directory can be written to, else 503.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use axum::Router;
use axum::error_handling::HandleError;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use s3s::access::S3Access;
use s3s::auth::{SecretKey, SimpleAuth};
use s3s::dto::{GetObjectInput, HeadObjectInput};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Request, S3Result, s3_error};
use s3s_fs::FileSystem;

/// Where the server says how it is.
pub const HEALTH: &str = "/-/health";

/// The store of the directory, for those who sign with this pair of keys.
///
/// # Errors
/// Where the directory cannot be used.
pub fn router(data: &Path, access: &str, secret: impl Into<SecretKey>) -> anyhow::Result<Router> {
    let shown = data.display();
    let files = FileSystem::new(data).map_err(|error| anyhow::anyhow!("{shown} cannot be used: {error:?}"))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(access, secret));
    builder.set_access(OnlyObjects(data.to_owned()));
    let objects = HandleError::new(builder.build(), async |error: s3s::HttpError| {
        tracing::error!("a request failed: {error:?}");
        StatusCode::INTERNAL_SERVER_ERROR
    });
    Ok(Router::new()
        .fallback_service(objects)
        .layer(from_fn_with_state(Writes::default(), one_at_a_time))
        .route(HEALTH, get(health))
        .with_state(data.to_owned()))
}

/// Who writes to which key.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>);

impl Writes {
    fn to(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(write) = writes.get(key).and_then(Weak::upgrade) {
            return write;
        }
        writes.retain(|_, write| write.strong_count() > 0);
        let write = Arc::default();
        writes.insert(key.to_owned(), Arc::downgrade(&write));
        write
    }
}

/// A key is written to by one request at a time: whether an object is there is asked before its content has come, so of two
/// that create it if it is not there both would succeed.
async fn one_at_a_time(State(writes): State<Writes>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let write = writes.to(request.uri().path());
    let _held = write.lock().await;
    next.run(request).await
}

/// Whoever signs may do everything. What objects have in common at the beginning of their keys is a directory here and nothing
/// in S3, where asking for it is answered with 404.
struct OnlyObjects(PathBuf);

impl OnlyObjects {
    async fn refuse_prefix(&self, bucket: &str, key: &str) -> S3Result<()> {
        let found = tokio::fs::metadata(self.0.join(bucket).join(key)).await;
        if found.is_ok_and(|found| found.is_dir()) { Err(s3_error!(NoSuchKey)) } else { Ok(()) }
    }
}

#[async_trait]
impl S3Access for OnlyObjects {
    async fn head_object(&self, request: &mut S3Request<HeadObjectInput>) -> S3Result<()> {
        self.refuse_prefix(&request.input.bucket, &request.input.key).await
    }

    async fn get_object(&self, request: &mut S3Request<GetObjectInput>) -> S3Result<()> {
        self.refuse_prefix(&request.input.bucket, &request.input.key).await
    }
}

async fn health(State(data): State<PathBuf>) -> (StatusCode, axum::Json<serde_json::Value>) {
    let probe = data.join(".health");
    match tokio::fs::write(&probe, b"").await {
        Ok(()) => (StatusCode::OK, axum::Json(serde_json::json!({ "status": "ok" }))),
        Err(error) => {
            tracing::error!("{} does not take a write: {error}", data.display());
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(serde_json::json!({ "status": "read-only" })))
        }
    }
}
