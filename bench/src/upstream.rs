//! A provider that answers at once. It costs as little as it can, for it shares the machine with what is measured: requests
//! are read only as far as it must know them, and nothing is parsed.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{Tally, head_end, length_of};

/// The events of a streamed answer that have text; each is one token.
pub(crate) const CHUNKS: u64 = 50;
/// The tokens of every question.
pub(crate) const INPUT: u64 = 9;

#[derive(Default)]
struct Served {
    calls: AtomicU64,
    output: AtomicU64,
}

/// Serves on a port of its own, which it says, until its input ends.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = crate::process::announce().await?;
    let served = Arc::new(Served::default());
    tokio::select! {
        ended = crate::process::input_ends() => ended,
        ended = accept(listener, served) => ended,
    }
}

async fn accept(listener: TcpListener, served: Arc<Served>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let served = Arc::clone(&served);
        // Whoever closes the connection has left; there is nobody to tell.
        tokio::spawn(async move { answer_all(stream, &served).await.ok() });
    }
}

async fn answer_all(mut stream: TcpStream, served: &Served) -> anyhow::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(end) = head_end(&buffer) {
                let whole = end + length_of(&buffer[..end]).unwrap_or(0);
                if buffer.len() >= whole {
                    break whole;
                }
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let request = &buffer[..end];
        if request.starts_with(b"GET ") {
            let tally =
                Tally { calls: served.calls.load(Ordering::Acquire), output: served.output.load(Ordering::Acquire) };
            stream.write_all(whole(&format!("{} {}", tally.calls, tally.output)).as_bytes()).await?;
        } else if memmem::find(request, br#""stream":true"#).is_some() {
            let asked_for_usage = memmem::find(request, b"include_usage").is_some();
            served.calls.fetch_add(1, Ordering::AcqRel);
            served.output.fetch_add(CHUNKS, Ordering::AcqRel);
            events(&mut stream, asked_for_usage).await?;
        } else {
            // Not the same for each, so that no charge stands in for another.
            let output = 3 + served.calls.fetch_add(1, Ordering::AcqRel) % 7;
            served.output.fetch_add(output, Ordering::AcqRel);
            let total = INPUT + output;
            let body = format!(
                r#"{{"id":"c","object":"chat.completion","created":1700000000,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"It is well, thank you, and you?"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{INPUT},"completion_tokens":{output},"total_tokens":{total}}}}}"#
            );
            stream.write_all(whole(&body).as_bytes()).await?;
        }
        buffer.drain(..end);
    }
}

fn whole(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Each event goes alone, as those of a model do.
async fn events(stream: &mut TcpStream, with_usage: bool) -> anyhow::Result<()> {
    const EVENT: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}"#;
    const LAST: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let event = chunk(EVENT)?;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..CHUNKS {
        stream.write_all(event.as_bytes()).await?;
        tokio::task::yield_now().await;
    }
    let mut end = chunk(LAST)?;
    if with_usage {
        let total = INPUT + CHUNKS;
        end += &chunk(&format!(
            r#"{{"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[],"usage":{{"prompt_tokens":{INPUT},"completion_tokens":{CHUNKS},"total_tokens":{total}}}}}"#
        ))?;
    }
    end += &chunk("[DONE]")?;
    end += "0\r\n\r\n";
    Ok(stream.write_all(end.as_bytes()).await?)
}

fn chunk(data: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    write!(text, "{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8).context("no event")?;
    Ok(text)
}
