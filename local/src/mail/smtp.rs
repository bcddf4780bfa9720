//! Taking mail: <https://www.rfc-editor.org/rfc/rfc5321>.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::mailbox::Mailbox;

/// Longer than any command or line of text may be (512 and 1000), since some senders do not wrap.
const LINE_BYTES_MAX: u64 = 64 * 1024;
const RECIPIENTS_MAX: usize = 100;
const CONNECTIONS_MAX: usize = 100;
/// A sender that is silent for so long is gone.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) async fn serve(
    listener: TcpListener,
    mailbox: Arc<Mailbox>,
    mail_bytes_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            _ = stop.changed() => break,
        };
        let stream = match accepted {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!("a connection was not accepted: {error}");
                // Out of file handles, most likely; trying again at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (mailbox, places) = (Arc::clone(&mailbox), Arc::clone(&places));
        connections.spawn(async move {
            let Ok(_place) = places.try_acquire() else {
                let mut stream = stream;
                // The sender learns it from the closed connection if not from this.
                let _sent = stream.write_all(b"421 too many connections\r\n").await;
                return;
            };
            if let Err(error) = Session::new(stream, mailbox, mail_bytes_max).run().await {
                tracing::debug!("a mail connection ended: {error}");
            }
        });
    }
    connections.shutdown().await;
}

struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    mailbox: Arc<Mailbox>,
    mail_bytes_max: usize,
    greeted: bool,
    from: Option<String>,
    to: Vec<String>,
}

impl Session {
    fn new(stream: TcpStream, mailbox: Arc<Mailbox>, mail_bytes_max: usize) -> Self {
        let (reader, writer) = stream.into_split();
        let reader = BufReader::new(reader);
        Self { reader, writer, mailbox, mail_bytes_max, greeted: false, from: None, to: Vec::new() }
    }

    async fn reply(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(format!("{text}\r\n").as_bytes()).await
    }

    /// One line with its end. Empty at the end of the connection; longer ones are an error.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX);
        let read = tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await;
        read.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        if line.len() as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
            self.reply("500 line too long").await?;
            return Err(io::Error::other("a line was too long"));
        }
        Ok(line)
    }

    async fn run(mut self) -> io::Result<()> {
        self.reply("220 wopr-mail-catcher ESMTP keeps everything and delivers nothing").await?;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            let Ok(text) = String::from_utf8(line) else {
                self.reply("501 commands are UTF-8").await?;
                continue;
            };
            let text = text.trim_end();
            let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
            match verb.to_ascii_uppercase().as_str() {
                "QUIT" => return self.reply("221 bye").await,
                "DATA" => self.data().await?,
                verb => {
                    let answer = self.command(verb, rest.trim());
                    self.reply(&answer).await?;
                }
            }
        }
    }

    fn command(&mut self, verb: &str, rest: &str) -> String {
        match verb {
            "EHLO" => {
                self.reset();
                self.greeted = true;
                let size = self.mail_bytes_max;
                format!("250-wopr-mail-catcher\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING")
            }
            "HELO" => {
                self.reset();
                self.greeted = true;
                "250 wopr-mail-catcher".to_owned()
            }
            "NOOP" => "250 ok".to_owned(),
            "RSET" => {
                self.reset();
                "250 forgotten".to_owned()
            }
            "MAIL" => self.mail(rest),
            "RCPT" => self.recipient(rest),
            "VRFY" => "252 every address is accepted".to_owned(),
            "STARTTLS" => "502 this server does not encrypt; send plainly".to_owned(),
            "AUTH" => "502 this server has no accounts; send without logging in".to_owned(),
            "" => "500 a command is needed".to_owned(),
            _ => "500 unknown command".to_owned(),
        }
    }

    fn reset(&mut self) {
        self.from = None;
        self.to.clear();
    }

    fn mail(&mut self, rest: &str) -> String {
        if !self.greeted {
            return "503 say EHLO first".to_owned();
        }
        if self.from.is_some() {
            return "503 there is a sender already; RSET forgets it".to_owned();
        }
        let Some((address, parameters)) = path(rest, "FROM:") else {
            return "501 MAIL FROM:<address> is expected".to_owned();
        };
        for parameter in parameters.split_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name.to_ascii_uppercase().as_str() {
                "SIZE" => match value.parse::<usize>() {
                    Ok(size) if size > self.mail_bytes_max => return self.too_large(),
                    Ok(_) => {}
                    Err(_) => return "501 SIZE takes a number".to_owned(),
                },
                "BODY" | "SMTPUTF8" => {}
                _ => return format!("555 unknown parameter {name}"),
            }
        }
        self.from = Some(address.to_owned());
        "250 ok".to_owned()
    }

    fn too_large(&self) -> String {
        format!("552 a mail may have {} bytes here", self.mail_bytes_max)
    }

    fn recipient(&mut self, rest: &str) -> String {
        if self.from.is_none() {
            return "503 say MAIL first".to_owned();
        }
        match path(rest, "TO:") {
            Some((address, parameters)) if !address.is_empty() && parameters.trim().is_empty() => {
                if self.to.len() >= RECIPIENTS_MAX {
                    return "452 too many recipients".to_owned();
                }
                self.to.push(address.to_owned());
                "250 ok".to_owned()
            }
            _ => "501 RCPT TO:<address> is expected".to_owned(),
        }
    }

    async fn data(&mut self) -> io::Result<()> {
        if self.to.is_empty() {
            return self.reply("503 say MAIL and RCPT first").await;
        }
        self.reply("354 end with a line that holds a single dot").await?;
        let mut raw = Vec::new();
        let mut fits = true;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            if line == b".\r\n" {
                break;
            }
            // A dot at the start of a line was doubled by the sender.
            let line = line.strip_prefix(b".").unwrap_or(&line);
            fits = fits && raw.len() + line.len() <= self.mail_bytes_max;
            if fits {
                raw.extend_from_slice(line);
            }
        }
        let (from, to) = (self.from.take().unwrap_or_default(), std::mem::take(&mut self.to));
        if !fits {
            let answer = self.too_large();
            return self.reply(&answer).await;
        }
        let mailbox = Arc::clone(&self.mailbox);
        let kept = tokio::task::spawn_blocking(move || mailbox.keep(from, to, raw)).await.map_err(io::Error::other)?;
        match kept {
            Ok(id) => self.reply(&format!("250 kept as {id}")).await,
            Err(error) => {
                tracing::error!("a mail was not kept: {error}");
                self.reply("451 the mail could not be kept").await
            }
        }
    }
}

/// The address of `FROM:<address> PARAMETERS`, and the parameters.
fn path<'t>(text: &'t str, prefix: &str) -> Option<(&'t str, &'t str)> {
    let head = text.get(..prefix.len())?;
    if !head.eq_ignore_ascii_case(prefix) {
        return None;
    }
    text[prefix.len()..].trim_start().strip_prefix('<')?.split_once('>')
}
