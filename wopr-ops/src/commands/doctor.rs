//! `doctor`: whether this machine can bring the stack up, and whether one that is up is well. Nothing is installed or started.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::Context;
use bollard::Docker;
use serde::Serialize;
use tokio::process::Command;

use crate::{
    cli::DoctorArgs,
    commands::{
        images::{NAMES, TOPOLOGY_NAMES},
        up::published_by,
    },
    engine::{self, find_program},
    exec::observe::container,
    failure::Exit,
    images::{
        self,
        binaries::cargo,
        debian::{ARCHIVE, KEYRING},
    },
    paths::{Paths, is_root},
    plan::{
        machines::{MACHINES, VPS, own_capabilities},
        spec::State,
    },
    ports::{is_free, owner},
    runbook::{Gotcha, Port, Probe, Runbook, report::Outcome, world::World},
    ui::Ui,
};

const GIB: u64 = 1024 * 1024 * 1024;
/// Everything that is built, kept and loaded into both machines came to about 12 GiB.
const DISK: Limits = Limits { least: 8 * GIB, comfortable: 20 * GIB };
/// The services' limits add up to less; compiling takes the rest.
const MEMORY: Limits = Limits { least: 3 * GIB, comfortable: 6 * GIB };
/// Capabilities without which no engine runs inside a container.
const NEEDED: [&str; 9] =
    ["SYS_ADMIN", "NET_ADMIN", "SYS_CHROOT", "MKNOD", "CHOWN", "SETUID", "SETGID", "SETFCAP", "DAC_OVERRIDE"];

/// What `--json` writes.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Diagnosis {
    /// Whether nothing prevents `up`.
    fit: bool,
    findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Finding {
    /// What was looked at.
    id: String,
    level: Level,
    /// What was seen.
    seen: String,
    /// What to do about it; `null` if nothing.
    to_do: Option<String>,
}

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum Level {
    /// As it should be.
    Ok,
    /// `up` works around it, or may be slow.
    Warn,
    /// `up` cannot work.
    Fail,
}

impl Finding {
    fn ok(id: &str, seen: impl Into<String>) -> Self {
        Self { id: id.to_owned(), level: Level::Ok, seen: seen.into(), to_do: None }
    }

    fn warn(id: &str, seen: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self { id: id.to_owned(), level: Level::Warn, seen: seen.into(), to_do: Some(to_do.into()) }
    }

    fn fail(id: &str, seen: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(id, seen, to_do) }
    }
}

/// How much there has to be, and how much is enough for everything.
#[derive(Debug, Clone, Copy)]
struct Limits {
    least: u64,
    comfortable: u64,
}

impl Limits {
    fn judge(self, id: &str, there: u64, what: &str, to_do: &str) -> Finding {
        let seen = format!("{} MiB {what}", there / (1024 * 1024));
        let wanted = |bytes: u64| format!("{to_do}: {} GiB are wanted", bytes / GIB);
        match there {
            _ if there < self.least => Finding::fail(id, seen, wanted(self.least)),
            _ if there < self.comfortable => Finding::warn(id, seen, wanted(self.comfortable)),
            _ => Finding::ok(id, seen),
        }
    }
}

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let engine = engine::connect().await;
    let mut findings = vec![account(), memory()];
    findings.extend(data_directory(&paths.data));
    findings.push(disk("disk for the data directory", &paths.data).await);
    findings.push(docker(engine.as_ref()).await);
    if let Ok(engine) = &engine {
        let directory = engine.info().await.ok().and_then(|info| info.docker_root_dir);
        // An engine elsewhere keeps its data where this machine cannot see it.
        if let Some(directory) = directory.filter(|directory| Path::new(directory).is_dir()) {
            findings.push(disk("disk for the engine", Path::new(&directory)).await);
        }
    }
    findings.push(capabilities());
    findings.push(control_groups(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()));
    for port in Port::ALL {
        findings.push(port_of(engine.as_ref().ok(), port.of(args.ports), args.ports.flag(port.of(args.ports))).await?);
    }
    findings.extend(tools(engine.is_ok()));
    findings.push(crates(paths).await);
    findings.push(packages(paths, engine.as_ref().ok()).await);
    if let Ok(engine) = &engine {
        findings.extend(runbook(paths, engine, args).await.unwrap_or_else(|error| {
            vec![Finding::warn("checks of the stack", format!("{error:#}"), "`cargo wopr runbook check` makes them")]
        }));
    }
    let fit = findings.iter().all(|finding| finding.level != Level::Fail);
    let diagnosis = Diagnosis { fit, findings };
    if args.json {
        ui.json(&diagnosis)?;
    } else {
        show(ui, &diagnosis);
    }
    Ok(if fit { ExitCode::SUCCESS } else { Exit::Environment.into() })
}

fn show(ui: &Ui, diagnosis: &Diagnosis) {
    for finding in &diagnosis.findings {
        let word = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        ui.line(format!("  {word}  {}: {}", finding.id, finding.seen));
        if let Some(to_do) = &finding.to_do {
            ui.line(format!("        to do: {to_do}"));
        }
    }
    ui.heading(if diagnosis.fit { "nothing prevents `cargo wopr up`" } else { "`cargo wopr up` cannot work here yet" });
}

/// What the runbook's checks say of the stack, if it runs; but for those that write something, or look at the checkout.
async fn runbook(paths: &Paths, engine: &Docker, args: &DoctorArgs) -> anyhow::Result<Vec<Finding>> {
    if container(engine, VPS).await?.is_none_or(|machine| machine.state != State::Running) {
        return Ok(Vec::new());
    }
    let mut runbook = super::runbook::read()?;
    runbook.checks.retain(|check| !matches!(check.probe, Probe::Webhook {} | Probe::Repository { .. }));
    let world = World { paths, engine: engine.clone(), http: super::http_client()?, ports: args.ports };
    let report = world.every_check(&runbook).await;
    Ok(report.checks.into_iter().map(|check| of_check(&runbook, check)).collect())
}

/// A red check stops no `up`.
fn of_check(runbook: &Runbook, check: Outcome) -> Finding {
    let id = format!("check {}", check.id);
    if check.passed {
        return Finding::ok(&id, check.detail);
    }
    let hazard = runbook.gotchas.iter().find(|gotcha| check.gotchas.contains(&gotcha.id));
    let to_do = match hazard {
        Some(Gotcha { id, handling, .. }) => format!("{id} in docs/runbook.md: {handling}"),
        None => "`cargo wopr start` makes what is not as planned anew".to_owned(),
    };
    Finding::warn(&id, check.detail, to_do)
}

fn account() -> Finding {
    if is_root() {
        return Finding::ok("account", "root");
    }
    Finding::fail("account", "not root, who alone may give files to the users of containers", "run it as root")
}

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available(&text) {
        Some(bytes) => MEMORY.judge("memory", bytes, "available", "end something that uses memory"),
        None => Finding::warn("memory", "the kernel does not tell", "see that there are 6 GiB"),
    }
}

/// Bytes that programs may still take, as `/proc/meminfo` says.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// That it is ours alone, and that what it holds is, too.
fn data_directory(data: &Path) -> Vec<Finding> {
    let secrets = data.join("secrets");
    let mut findings = Vec::new();
    for (id, directory) in [("data directory", data), ("secrets", secrets.as_path())] {
        let shown = directory.display();
        findings.push(match fs::metadata(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Finding::ok(id, format!("{shown} is not there; `up` makes it"))
            }
            Err(error) => Finding::fail(id, format!("{shown}: {error}"), "let this account read it"),
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                Finding::fail(id, format!("others may enter {shown}"), format!("chmod 700 {shown}"))
            }
            Ok(_) => Finding::ok(id, format!("{shown}, for its owner alone")),
        });
    }
    for entry in fs::read_dir(&secrets).into_iter().flatten().flatten() {
        let open = entry.metadata().is_ok_and(|found| found.mode() & 0o077 != 0);
        if open {
            let shown = entry.path().display().to_string();
            findings.push(Finding::fail("secrets", format!("others may read {shown}"), format!("chmod 600 {shown}")));
        }
    }
    findings
}

async fn disk(id: &str, directory: &Path) -> Finding {
    let output = Command::new("df").arg("-Pk").arg(directory).stdin(Stdio::null()).output().await;
    let free = output.ok().and_then(|output| free(&String::from_utf8_lossy(&output.stdout)));
    match free {
        Some(bytes) => DISK.judge(id, bytes, &format!("free at {}", directory.display()), "make room"),
        None => {
            Finding::warn(id, format!("`df` does not tell about {}", directory.display()), "see that there is room")
        }
    }
}

/// Free bytes, as `df -Pk` says.
fn free(df: &str) -> Option<u64> {
    df.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

async fn docker(engine: Result<&Docker, &anyhow::Error>) -> Finding {
    const ID: &str = "Docker engine";
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => return no_engine(&format!("{error:#}")),
    };
    let version = engine.version().await.ok().and_then(|version| version.version).unwrap_or_default();
    let driver = engine.info().await.ok().and_then(|info| info.driver).unwrap_or_default();
    let seen = format!("{version} answers, storage driver {driver}");
    if driver == "vfs" {
        return Finding::warn(ID, seen, "give it a storage driver that shares layers; vfs copies each one");
    }
    Finding::ok(ID, seen)
}

fn no_engine(why: &str) -> Finding {
    const ID: &str = "Docker engine";
    if std::env::var_os("DOCKER_HOST").is_some() {
        return Finding::fail(
            ID,
            format!("{why}, and DOCKER_HOST names one"),
            "start that engine, or unset DOCKER_HOST",
        );
    }
    match (find_program("dockerd"), find_program("apt-get")) {
        (Some(_), _) if is_root() => Finding::warn(ID, why, "nothing: `up` starts it"),
        (None, Some(_)) if is_root() => Finding::warn(ID, "not installed", "nothing: `up` installs it with apt-get"),
        (None, None) => Finding::fail(ID, "not installed, and there is no apt-get", "install a Docker engine"),
        _ => Finding::fail(ID, why, "run `cargo wopr engine` as root"),
    }
}

fn capabilities() -> Finding {
    const ID: &str = "capabilities";
    let held = match own_capabilities() {
        Ok(held) => held,
        Err(error) => return Finding::fail(ID, format!("they cannot be read: {error}"), "mount /proc"),
    };
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !held.iter().any(|held| held == name)).collect();
    if missing.is_empty() {
        return Finding::ok(ID, format!("{} that machines can be given", held.len()));
    }
    let to_do = "start the container this runs in with them, or use `cargo wopr up --flat`, which needs none";
    Finding::fail(ID, format!("this machine may not pass on {}", missing.join(", ")), to_do)
}

/// Whether containers can be limited, as the mount table says.
fn control_groups(mounts: &str) -> Finding {
    const ID: &str = "control groups";
    let rows = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let below = fields.get(1)?.starts_with("/sys/fs/cgroup");
        below.then_some((*fields.get(2)?, fields.get(3)?.split(',').any(|option| option == "rw")))
    });
    let groups: Vec<(&str, bool)> = rows.filter(|(kind, _)| kind.starts_with("cgroup")).collect();
    match groups.as_slice() {
        [] => Finding::fail(ID, "none are mounted at /sys/fs/cgroup", "mount them: cgroup2 at /sys/fs/cgroup"),
        some if some.iter().any(|(_, writable)| !writable) => {
            Finding::fail(ID, "/sys/fs/cgroup is read-only", "mount it writable: machines make groups of their own")
        }
        some if some.iter().any(|(kind, _)| *kind == "cgroup2") && some.len() == 1 => Finding::ok(ID, "version 2"),
        some => Finding::ok(ID, format!("version 1, {} hierarchies", some.len())),
    }
}

async fn port_of(engine: Option<&Docker>, port: u16, flag: &str) -> anyhow::Result<Finding> {
    let id = format!("port {port}");
    if is_free(port) {
        return Ok(Finding::ok(&id, "free"));
    }
    let container = match engine {
        Some(engine) => published_by(engine, port).await?,
        None => None,
    };
    Ok(match (container, owner(Path::new("/proc"), port)) {
        (Some(name), _) if MACHINES.contains(&name.as_str()) => {
            Finding::ok(&id, format!("{name} of ours publishes it"))
        }
        (Some(name), _) => {
            Finding::fail(&id, format!("the container {name} publishes it"), format!("stop it, or use {flag} PORT"))
        }
        (None, Some(owner)) => Finding::fail(
            &id,
            format!("process {} holds it: {}", owner.pid, owner.command),
            format!("stop it, or use {flag} PORT"),
        ),
        (None, None) => Finding::fail(
            &id,
            "a process that this account cannot see holds it",
            format!("find and stop it, or use {flag} PORT"),
        ),
    })
}

fn tools(engine_answers: bool) -> Vec<Finding> {
    let mut wanted = vec![("dpkg-deb", "dpkg"), ("apt-get", "apt"), ("git", "git")];
    if !engine_answers {
        wanted.extend([("iptables", "iptables"), ("setsid", "util-linux")]);
    }
    let mut findings: Vec<Finding> = wanted
        .into_iter()
        .map(|(program, package)| match find_program(program) {
            Some(path) => Finding::ok(program, path.display().to_string()),
            None if program == "apt-get" => {
                Finding::fail(program, "not found", "use Debian, or `up --bundle FILE`, which builds nothing")
            }
            None => Finding::warn(program, "not found", format!("apt-get install {package}")),
        })
        .collect();
    let keyring = if Path::new(KEYRING).is_file() {
        Finding::ok("archive keyring", KEYRING)
    } else {
        Finding::warn("archive keyring", "not found", "apt-get install debian-archive-keyring")
    };
    findings.push(keyring);
    findings
}

/// Whether what is compiled is here.
async fn crates(paths: &Paths) -> Finding {
    const ID: &str = "cargo";
    let Ok(workspace) = paths.workspace() else {
        return Finding::warn(
            ID,
            "this directory is not inside a checkout",
            "change into it, or use `up --bundle FILE`",
        );
    };
    let mut command = cargo();
    command.args(["fetch", "--locked", "--offline", "--quiet"]).current_dir(workspace).stdin(Stdio::null());
    match command.output().await {
        Err(error) => Finding::fail(ID, format!("it could not be run: {error}"), "install Rust: https://rustup.rs"),
        Ok(output) if output.status.success() => Finding::ok(ID, "all crates are here"),
        Ok(_) => Finding::warn(ID, "crates have to be downloaded", "nothing, where the registry can be reached"),
    }
}

/// Whether images are there, or what they are made from can be had.
async fn packages(paths: &Paths, engine: Option<&Docker>) -> Finding {
    const ID: &str = "Debian packages";
    let names: Vec<&'static str> = NAMES.into_iter().chain(TOPOLOGY_NAMES).collect();
    if let Some(engine) = engine
        && images::existing(paths, engine, &names).await.is_ok()
    {
        return Finding::ok(ID, "every image is here");
    }
    match reached().await {
        Ok(()) => Finding::ok(ID, format!("{ARCHIVE} answers")),
        Err(error) => Finding::fail(
            ID,
            format!("{ARCHIVE} does not answer: {error:#}"),
            "let apt reach it, or use `up --bundle FILE` with a file that another machine wrote",
        ),
    }
}

/// Asks the archive the way apt would: through the proxy that apt is configured with.
async fn reached() -> anyhow::Result<()> {
    let output = Command::new("apt-config").args(["shell", "PROXY", "Acquire::http::Proxy"]).output().await;
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let proxy = text.trim().strip_prefix("PROXY='").and_then(|rest| rest.strip_suffix('\'')).unwrap_or_default();
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy();
    if !proxy.is_empty() && proxy != "DIRECT" {
        client = client.proxy(reqwest::Proxy::http(proxy).context("apt's proxy is no address")?);
    }
    let response = client.build()?.head(format!("{ARCHIVE}/dists/stable/InRelease")).send().await?;
    response.error_for_status().map(drop).context("the archive refuses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 100 60 40 60% /\n";
        assert_eq!(free(df), Some(40 * 1024));
        assert_eq!(free(""), None);
    }

    #[test]
    fn too_little_fails_and_little_warns() {
        let limits = Limits { least: GIB, comfortable: 2 * GIB };
        let level = |bytes| limits.judge("x", bytes, "free", "make room").level;
        assert_eq!([level(GIB - 1), level(GIB), level(2 * GIB)], [Level::Fail, Level::Warn, Level::Ok]);
        assert!(limits.judge("x", 0, "free", "make room").to_do.unwrap().contains("1 GiB"));
    }

    #[test]
    fn control_groups_have_to_be_mounted_and_writable() {
        let cases = [
            ("", Level::Fail),
            ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", Level::Ok),
            ("cgroup2 /sys/fs/cgroup cgroup2 ro,nosuid 0 0\n", Level::Fail),
            ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", Level::Ok),
            ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n", Level::Fail),
        ];
        for (mounts, expected) in cases {
            assert_eq!(control_groups(mounts).level, expected, "{mounts}");
        }
    }

    #[tokio::test]
    async fn a_port_that_somebody_holds_names_the_holder_and_the_flag() {
        let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let finding = port_of(None, port, "--api-port").await.unwrap();
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.seen.contains(&std::process::id().to_string()), "{}", finding.seen);
        assert!(finding.to_do.unwrap().contains("--api-port"));
    }

    #[test]
    fn files_of_others_are_noticed() {
        let data = std::env::temp_dir().join(format!("wopr-doctor-{}", std::process::id()));
        fs::create_dir_all(data.join("secrets")).unwrap();
        for (directory, mode) in [(data.clone(), 0o700), (data.join("secrets"), 0o700)] {
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::write(data.join("secrets/A"), "").unwrap();
        fs::set_permissions(data.join("secrets/A"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(data_directory(&data).iter().all(|finding| finding.level == Level::Ok));
        fs::set_permissions(data.join("secrets/A"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(data_directory(&data).iter().any(|finding| finding.level == Level::Fail));
        fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn a_red_check_is_something_to_do_and_stops_no_up() {
        let check = |passed| Outcome {
            id: "vps-disk".to_owned(),
            kind: "disk".to_owned(),
            severity: crate::runbook::Severity::Critical,
            passed,
            detail: "0 MiB are free".to_owned(),
            took_ms: 1,
            gotchas: vec!["R38".to_owned()],
        };
        let runbook = crate::runbook::parse(crate::runbook::TEXT).unwrap();
        assert_eq!(of_check(&runbook, check(true)), Finding::ok("check vps-disk", "0 MiB are free"));
        let red = of_check(&runbook, check(false));
        assert_eq!(red.level, Level::Warn);
        assert!(red.to_do.unwrap().starts_with("R38 "));
    }

    #[test]
    fn the_schema_is_that_of_the_type() {
        let findings = vec![Finding::ok("a", "b"), Finding::warn("a", "b", "c"), Finding::fail("a", "b", "c")];
        let diagnosis = Diagnosis { fit: false, findings };
        crate::runbook::assert_schema_fits("doctor", &schemars::schema_for!(Diagnosis), &diagnosis);
    }
}
