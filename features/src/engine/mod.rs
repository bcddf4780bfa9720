//! A Docker engine of one's own: one that may be killed, frozen and filled up.
//!
//! It lives in network, mount and process namespaces of its own, with a small file system in memory for a disk. So it
//! shares nothing with the machine's engine, and when its last process ends nothing of it is left: no mount, no
//! interface, no process. Its input is a pipe from this process; when this process ends, however that happens, the
//! engine ends too, and a process beside it removes its directory and its control groups.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::docker::Engine;
use crate::wait;

const AROUND: &str = include_str!("around.sh");
const INSIDE: &str = include_str!("inside.sh");
/// The programs that the scripts call, beside those of every system, and the packages they are in.
const PROGRAMS: [(&str, &str); 5] = [
    ("dockerd", "docker.io"),
    ("docker-init", "docker.io"),
    ("containerd", "containerd"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
];
/// How long an order may take: filling a disk in memory, or the end of a killed process.
const LONGEST_ORDER: Duration = Duration::from_secs(20);
/// How long everything may take to be cleaned up.
const LONGEST_END: Duration = Duration::from_secs(20);

/// What can be done to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Starts it. It need not have come to answering yet.
    Start,
    /// Kills it; its containers and what runs them go on.
    Kill,
    /// Kills it together with what runs its containers.
    KillAll,
    /// Makes it hang.
    Freeze,
    /// Ends that.
    Thaw,
    /// Fills its disk to the last byte.
    Fill,
    /// Ends that.
    Free,
    /// Keeps what it has noted of its containers.
    Note,
    /// What it has noted of those containers since is lost, as if it had been killed before. It must not be running.
    Forget,
    /// The files of its containers are gone, as when it was killed while it removed them. It must not be running.
    Tear,
}

impl Order {
    const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Kill => "kill",
            Self::KillAll => "kill-all",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Fill => "fill",
            Self::Free => "free",
            Self::Note => "note",
            Self::Forget => "forget",
            Self::Tear => "tear",
        }
    }
}

/// An engine of one's own.
#[derive(Debug)]
pub struct OwnEngine {
    home: PathBuf,
    supervisor: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl OwnEngine {
    /// What this machine lacks to run one, in one line.
    pub fn missing() -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
        let lacking = PROGRAMS.iter().find(|(program, _)| !found(program));
        if let Some((program, package)) = lacking {
            return Some(format!("there is no {program} (package {package})"));
        }
        let may = std::process::Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--", "mount", "-t", "tmpfs", "none", "/run"])
            .output();
        match may {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "this user may make no namespaces and mounts: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Some(format!("unshare cannot be run: {error}")),
        }
    }

    /// Starts one, with the `wopr-machine` that looks after it, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up; its last words are in the error.
    pub async fn start(disk_mib: u32, machine: &Path) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wopr-engine-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let home = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(home.join("disk")).with_context(|| home.display().to_string())?;
        // Not the machine's own configuration.
        std::fs::write(home.join("config.json"), "{}")?;
        let mut supervisor = Command::new("sh")
            .args(["-c", AROUND, "around", INSIDE])
            .arg(&home)
            .args([format!("{disk_mib}m"), name])
            .arg(machine)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // What interrupts the test must not keep this from cleaning up.
            .process_group(0)
            .spawn()
            .context("sh")?;
        let orders = supervisor.stdin.take().context("no input")?;
        let answers = BufReader::new(supervisor.stdout.take().context("no output")?).lines();
        let mut engine = Self { home, supervisor, orders, answers };
        engine.order(Order::Start).await?;
        engine.ready().await?;
        Ok(engine)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.home.join("docker.sock")
    }

    /// Does something to it.
    ///
    /// # Errors
    /// When that is not done in time.
    pub async fn order(&mut self, order: Order) -> Result<()> {
        let word = order.word();
        let carried_out = async {
            self.orders.write_all(format!("{word}\n").as_bytes()).await?;
            self.orders.flush().await?;
            self.answers.next_line().await
        };
        let answer = tokio::time::timeout(LONGEST_ORDER, carried_out).await;
        match answer.with_context(|| format!("{word} hangs"))?.with_context(|| format!("{word} could not be told"))? {
            Some(answer) if answer == format!("done {word}") => Ok(()),
            answer => bail!("{word}: {answer:?}: {}", self.last_words()),
        }
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it does not; its last words are in the error.
    pub async fn ready(&self) -> Result<Engine> {
        let answering = wait::until("an engine that answers", async || Engine::at(&self.socket()).await).await;
        answering.with_context(|| self.last_words())
    }

    /// The ids of the containers that have processes, whatever the engine says of them.
    ///
    /// # Errors
    /// When the machine does not tell.
    pub fn with_processes(&self) -> Result<Vec<String>> {
        let group = self.home.file_name().context("a directory has a name")?;
        // With control groups of version 1, one hierarchy is as good as another.
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| Path::new(root).join(group));
        let root = roots.iter().find(|root| root.is_dir()).context("the engine has no control group")?;
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(root)?.filter_map(Result::ok).filter(|entry| entry.path().is_dir()) {
            // A group that ends meanwhile has no processes.
            let processes = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
            if !processes.trim().is_empty() {
                ids.extend(entry.file_name().to_str().map(str::to_owned));
            }
        }
        Ok(ids)
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.home.join(name)).unwrap_or_default();
        let tail = |text: String| -> String {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        format!("orders:\n{}\nlog:\n{}", tail(read("orders")), tail(read("log")))
    }

    /// Ends it and waits until nothing of it is left.
    ///
    /// # Errors
    /// When something is.
    pub async fn end(self) -> Result<()> {
        let Self { home, mut supervisor, orders, answers } = self;
        drop((orders, answers));
        let ended = tokio::time::timeout(LONGEST_END, supervisor.wait()).await;
        ended.context("the engine does not end")??;
        ensure!(!home.exists(), "{} is left", home.display());
        let group = home.file_name().context("a directory has a name")?;
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")? {
            let group = hierarchy?.path().join(group);
            ensure!(!group.exists(), "{} is left", group.display());
        }
        ensure!(!Path::new("/sys/fs/cgroup").join(group).exists(), "a control group is left");
        Ok(())
    }
}
