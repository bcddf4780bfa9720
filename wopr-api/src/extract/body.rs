use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, Issue};
use crate::pipeline::BodyTimeout;

/// The largest body that is read.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long a client may take to send its body, outside of the pipeline.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a whole body, bounded in size and time.
///
/// # Errors
/// 413 when it is too large, 408 when it is too slow, 400 when the connection broke.
pub(crate) async fn read_body(extensions: &Extensions, body: Body) -> Result<Bytes, ApiError> {
    let allowed = extensions.get::<BodyTimeout>().map_or(BODY_TIMEOUT, |timeout| timeout.0);
    let read = tokio::time::timeout(allowed, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::bad_request("The request body could not be read")),
        Err(_) => {
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", "The request body took too long to arrive"))
        }
    }
}

/// 413.
pub(crate) fn too_large() -> ApiError {
    let message = format!("The request body may have at most {MAX_BODY_BYTES} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
}

/// A whole body as it was sent, bounded as every body is: what a signature is made over.
#[derive(Debug, Clone)]
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        read_body(&parts.extensions, body).await.map(Self)
    }
}

/// A JSON body in, a JSON body out. A body that does not fit says where.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = "The request body must be application/json";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message));
        }
        let (parts, body) = request.into_parts();
        let body = read_body(&parts.extensions, body).await?;
        let mut deserializer = serde_json::Deserializer::from_slice(&body);
        let value: T = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| if error.inner().is_data() { crate::trpc::invalid(&error) } else { malformed() })?;
        deserializer.end().map_err(|_| malformed())?;
        Ok(Self(value))
    }
}

fn malformed() -> ApiError {
    ApiError::bad_request("Invalid JSON body").code("INVALID_JSON")
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => ApiError::internal(error).into_response(),
        }
    }
}

/// The query string.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Query::from_request_parts(parts, state).await.map(|query| Self(query.0)).map_err(|rejection| {
            let message = rejection.body_text();
            let message = message.rsplit("deserialize query string: ").next().unwrap_or_default().to_owned();
            ApiError::invalid_input(vec![Issue { code: "custom", path: Vec::new(), message }])
        })
    }
}

/// The variable parts of the path.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|path| Self(path.0))
            .map_err(|_| ApiError::bad_request("Invalid id in the path").code("INVALID_ID"))
    }
}
