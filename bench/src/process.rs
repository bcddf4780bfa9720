//! Processes beside this one, and what the system knows of them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// The system counts processor time in hundredths of a second for everybody, whatever its own clock.
const TICK: Duration = Duration::from_millis(10);

/// Listens on a port of this machine that is free, and says which on the output.
#[expect(clippy::print_stdout, reason = "the process that started this one reads it")]
pub(crate) async fn announce() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    Ok(listener)
}

/// Whoever started this process is gone, or wants it gone.
pub(crate) async fn input_ends() -> anyhow::Result<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        // An input that cannot be read has ended as well; and that nobody waits any more is no matter.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        ended.send(()).ok();
    });
    Ok(end.await?)
}

/// Starts this same program as something else; answers the port that it serves on.
pub(crate) async fn helper(args: &[&str]) -> anyhow::Result<(Child, u16)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("this program cannot be started again")?;
    let output = child.stdout.take().context("it has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).await?;
    let port = line.trim().parse().with_context(|| format!("{args:?} did not say its port"))?;
    Ok((child, port))
}

/// The processor time that a process has used.
pub(crate) fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&text).context("/proc has another format")?;
    Ok(TICK * u32::try_from(ticks)?)
}

fn ticks(stat: &str) -> Option<u64> {
    // The name is in parentheses, and may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// What a process has in memory, and how much of that is its own and no file's, in KiB.
pub(crate) fn memory_kib(pid: u32) -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Ok((field("VmRSS").context("no VmRSS")?, field("RssAnon").context("no RssAnon")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_the_program_and_of_the_system_for_it() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 120 30 9 9 20 0 3 0 1 1 1";
        assert_eq!(ticks(stat), Some(150));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn a_process_has_memory() {
        let (all, own) = memory_kib(std::process::id()).unwrap();
        assert!(all > own && own > 0, "{all} {own}");
    }
}
