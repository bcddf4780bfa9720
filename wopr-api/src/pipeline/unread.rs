//! Answers that are ready before a body was read.
//!
//! A connection that is closed while its client still sends is reset: the client may never see the answer, and the request
//! that it sends there next is lost. So the rest of a body is read first and thrown away, within bounds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

/// How much is thrown away at most, which is more than any route takes, and for how long.
const BYTES: usize = 32 * 1024 * 1024;
const TIME: Duration = Duration::from_secs(10);

/// Answers when the client has sent everything or has had its chance, whoever answered and however early.
pub(super) async fn read_on(request: Request, next: Next) -> Response {
    let rest = Rest::default();
    let asks_first = asks_first(request.headers());
    let watched = |body| Body::new(Watched { body, asks_first, rest: Arc::clone(&rest) });
    let response = next.run(request.map(watched)).await;
    let unread = rest.lock().unwrap_or_else(PoisonError::into_inner).take();
    after(unread.unwrap_or_default(), response).await
}

/// The answer, once what is left of the body was read; a client that was too slow is told so at once.
pub(crate) async fn after(body: Body, response: Response) -> Response {
    if response.status() != StatusCode::REQUEST_TIMEOUT {
        discard(body).await;
    }
    response
}

/// Whether the client sends its body only when it is told to, which reading from it does.
pub(crate) fn asks_first(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads on until the client has sent all of it, or has had its chance.
async fn discard(mut body: Body) {
    if body.size_hint().lower() > BYTES as u64 {
        return;
    }
    let all = async {
        let mut left = BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    if tokio::time::timeout(TIME, all).await.is_err() {
        tracing::debug!("a client was still sending a body that nobody reads");
    }
}

/// What nobody read of a body.
type Rest = Arc<Mutex<Option<Body>>>;

/// A body that is kept when whoever has it drops it before its end.
struct Watched {
    body: Body,
    /// Whether the client still waits to be told that it may send.
    asks_first: bool,
    rest: Rest,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.asks_first = false;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.asks_first && !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
