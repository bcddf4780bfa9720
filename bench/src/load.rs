//! Calls over connections that stay open, cheap enough that what answers is what is measured. Every answer is read to its
//! end, and an answer that is not whole ends the measurement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::upstream::CHUNKS;

/// Nobody is waited for longer.
const PATIENCE: Duration = Duration::from_secs(20);

const OK: u16 = 200;
const UNAVAILABLE: u16 = 503;

/// What was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    /// Tokens written.
    pub(crate) output: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.output += other.output;
    }
}

/// Where calls go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Connections take them in turn.
    pub(crate) keys: Vec<String>,
}

/// How calls are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) length: Duration,
    /// Calls a second of all connections; without it each connection asks again at once.
    pub(crate) rate: Option<u32>,
    pub(crate) stream: bool,
    /// All with the first key.
    pub(crate) one_key: bool,
    /// The answer may be that the service is not available.
    pub(crate) is_refused: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// Calls that were answered with 503.
    pub(crate) refused: u64,
    pub(crate) took: Duration,
    /// To the first byte of a body, sorted.
    pub(crate) first: Vec<Duration>,
    /// To the end of a body, sorted.
    pub(crate) whole: Vec<Duration>,
}

struct Answered {
    output: u64,
    first: Duration,
    whole: Duration,
}

/// Loads a target; every call that is begun is read to its end.
pub(crate) async fn run(target: &Target, load: Load) -> anyhow::Result<Outcome> {
    let mut connections = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        let key = if load.one_key { &target.keys[0] } else { &target.keys[index % target.keys.len()] };
        connections.push(Connection::open(target.address, key, load.stream).await?);
    }
    let began = Instant::now();
    let mut work = JoinSet::new();
    for (index, connection) in connections.into_iter().enumerate() {
        work.spawn(connection.go_on(began, index, load));
    }
    let mut outcome = Outcome::default();
    while let Some(answered) = work.join_next().await {
        for answered in answered?.with_context(|| target.name.clone())? {
            let Some(Answered { output, first, whole }) = answered else {
                outcome.refused += 1;
                continue;
            };
            outcome.tally.add(Tally { calls: 1, output });
            outcome.first.push(first);
            outcome.whole.push(whole);
        }
    }
    outcome.took = began.elapsed();
    outcome.first.sort_unstable();
    outcome.whole.sort_unstable();
    Ok(outcome)
}

/// What the upstream has served so far.
pub(crate) async fn served(upstream: SocketAddr) -> anyhow::Result<Tally> {
    let mut connection =
        Connection { stream: TcpStream::connect(upstream).await?, buffer: Vec::new(), ask: Arc::default() };
    connection.stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
    let (status, _, body) = connection.answer(Instant::now()).await?;
    ensure!(status == OK, "the upstream answers {status}");
    let text = String::from_utf8(body)?;
    let (calls, output) = text.split_once(' ').context("the upstream does not say what it served")?;
    Ok(Tally { calls: calls.parse()?, output: output.parse()? })
}

/// Asks for a path; answers the status.
pub(crate) async fn status(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    status_of(&answer).context("no HTTP")
}

/// The status in a head.
fn status_of(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.split(|byte| *byte == b' ').nth(1)?).ok()?.parse().ok()
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    ask: Arc<[u8]>,
}

impl Connection {
    async fn open(address: SocketAddr, key: &str, stream: bool) -> anyhow::Result<Self> {
        let more = if stream { r#","stream":true"# } else { "" };
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"system","content":"You are friendly."}},{{"role":"user","content":"How are you today?"}}],"max_tokens":100{more}}}"#
        );
        let ask = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let connection = TcpStream::connect(address).await.with_context(|| format!("nobody is at {address}"))?;
        connection.set_nodelay(true)?;
        Ok(Self { stream: connection, buffer: Vec::with_capacity(16 << 10), ask: ask.into_bytes().into() })
    }

    async fn go_on(mut self, began: Instant, index: usize, load: Load) -> anyhow::Result<Vec<Option<Answered>>> {
        let mut answers = Vec::new();
        for turn in 0_u32.. {
            let due = match load.rate {
                None => Instant::now(),
                Some(rate) => {
                    let before = u32::try_from(load.connections)? * turn + u32::try_from(index)?;
                    let due = began + Duration::from_secs(1) * before / rate;
                    if Instant::now() < due {
                        // The timer is a millisecond late at times, which is not the target's doing.
                        tokio::time::sleep_until(due.into()).await;
                        Instant::now()
                    } else {
                        // The answer before came late: this call waited for it.
                        due
                    }
                }
            };
            // Where calls are refused after seconds each, those that are late are not made up for.
            let passed = if load.is_refused { began.elapsed() } else { due.duration_since(began) };
            if passed >= load.length {
                break;
            }
            let answered = tokio::time::timeout(PATIENCE, self.call(due, load)).await;
            answers.push(answered.context("an answer did not come to its end")??);
        }
        Ok(answers)
    }

    /// Nothing for a call that is refused where it may be.
    async fn call(&mut self, due: Instant, load: Load) -> anyhow::Result<Option<Answered>> {
        let ask = Arc::clone(&self.ask);
        self.stream.write_all(&ask).await?;
        let (status, first, body) = self.answer(due).await?;
        let whole = due.elapsed();
        if load.is_refused && status == UNAVAILABLE {
            return Ok(None);
        }
        ensure!(status == OK, "a call was refused with {status}: {}", String::from_utf8_lossy(&body));
        let output = if load.stream {
            let chunks = memmem::find_iter(&body, br#""delta":{"content":" word"}"#).count() as u64;
            ensure!(chunks == CHUNKS, "{chunks} of {CHUNKS} events came: {}", String::from_utf8_lossy(&body));
            ensure!(body.ends_with(b"data: [DONE]\n\n"), "a stream did not come to its end");
            chunks
        } else {
            written(&body).with_context(|| format!("an answer without usage: {}", String::from_utf8_lossy(&body)))?
        };
        Ok(Some(Answered { output, first, whole }))
    }

    /// Reads an answer: its status, how long its first byte took, and its body.
    async fn answer(&mut self, due: Instant) -> anyhow::Result<(u16, Duration, Vec<u8>)> {
        let end = loop {
            if let Some(end) = head_end(&self.buffer) {
                break end;
            }
            self.more().await?;
        };
        let status = status_of(&self.buffer[..end]).context("no HTTP")?;
        let length = length_of(&self.buffer[..end]);
        let mut body = Vec::new();
        self.buffer.drain(..end);
        let mut first = None;
        if let Some(length) = length {
            while self.buffer.len() < length {
                self.more().await?;
                first.get_or_insert_with(|| due.elapsed());
            }
            body.extend(self.buffer.drain(..length));
        } else {
            loop {
                let line = loop {
                    if let Some(line) = memmem::find(&self.buffer, b"\r\n") {
                        break line;
                    }
                    self.more().await?;
                };
                let size = std::str::from_utf8(&self.buffer[..line])?;
                let size =
                    usize::from_str_radix(size, 16).with_context(|| format!("{size:?} is no length of a chunk"))?;
                let from = line + 2;
                while self.buffer.len() < from + size + 2 {
                    self.more().await?;
                }
                first.get_or_insert_with(|| due.elapsed());
                body.extend_from_slice(&self.buffer[from..from + size]);
                self.buffer.drain(..from + size + 2);
                if size == 0 {
                    break;
                }
            }
        }
        Ok((status, first.unwrap_or_else(|| due.elapsed()), body))
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.stream.read_buf(&mut self.buffer).await? > 0,
            "the connection was closed in the middle of an answer"
        );
        Ok(())
    }
}

/// The tokens that an answer says were written.
fn written(body: &[u8]) -> Option<u64> {
    const NAME: &[u8] = br#""completion_tokens":"#;
    let rest = &body[memmem::find(body, NAME)? + NAME.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// Where a body begins, if the head before it is there.
pub(crate) fn head_end(buffer: &[u8]) -> Option<usize> {
    memmem::find(buffer, b"\r\n\r\n").map(|end| end + 4)
}

/// The length of a body, if its head says it.
pub(crate) fn length_of(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))?;
    std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_usage_are_read() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y\r\n\r\n";
        assert_eq!((head_end(head), length_of(head)), (Some(head.len()), Some(12)));
        assert_eq!(length_of(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), None);
        assert_eq!(written(br#"{"usage":{"prompt_tokens":9,"completion_tokens":41,"total_tokens":50}}"#), Some(41));
        assert_eq!(written(b"{}"), None);
    }

    #[tokio::test]
    async fn an_answer_that_lost_an_event_is_not_taken_for_whole() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = Vec::new();
            while head_end(&buffer).is_none() {
                stream.read_buf(&mut buffer).await.unwrap();
            }
            let event = "data: {\"choices\":[{\"delta\":{\"content\":\" word\"}}]}\n\n".repeat(49) + "data: [DONE]\n\n";
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let answer = format!("{head}{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        });
        let mut connection = Connection::open(address, "k", true).await.unwrap();
        let load =
            Load { connections: 1, length: Duration::ZERO, rate: None, stream: true, one_key: false, is_refused: true };
        let error = connection.call(Instant::now(), load).await.err().unwrap();
        assert!(error.to_string().starts_with("49 of 50"), "{error}");
        drop(answers.await.unwrap());
    }
}
