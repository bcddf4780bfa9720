//! Compiling the programs that go into images.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{memo::Memo, recipes::Binary};
use crate::{
    failure::{Exit, Failure},
    paths::Paths,
    ui::Ui,
};

/// A program that was compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    /// Where it lies on this machine.
    pub(crate) executable: PathBuf,
    /// Shared libraries it needs at run time; none for a static one.
    pub(crate) libraries: Vec<PathBuf>,
}

/// How programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// Optimised and static: what production runs. Several times the compilation of `dev`.
    Ship,
    /// Quick to compile, and shares what the tests compile; takes the C library from this machine.
    Dev,
}

/// Compiles the programs in one cargo invocation; answers by binary name.
pub(crate) async fn compile(
    ui: &Ui,
    paths: &Paths,
    programs: &[Binary],
    profile: Profile,
) -> anyhow::Result<HashMap<&'static str, Built>> {
    let task = ui.start(match profile {
        Profile::Ship => "compiling the programs, optimised and static (minutes the first time)",
        Profile::Dev => "compiling the programs (minutes the first time)",
    });
    let built = match command(paths, programs, profile).await {
        Ok(command) => run(command, &task).await,
        Err(error) => Err(error),
    };
    let artifacts = task.ends(built, |artifacts| format!("{} binaries", artifacts.len()))?;
    located(paths, programs, &artifacts).await
}

/// Finds the programs among what cargo reported.
pub(crate) async fn located(
    paths: &Paths,
    programs: &[Binary],
    artifacts: &HashMap<String, PathBuf>,
) -> anyhow::Result<HashMap<&'static str, Built>> {
    let each = programs.iter().map(async |program| {
        let executable = artifacts.get(program.name).cloned().ok_or_else(|| {
            Failure::new(Exit::Image, format!("there is no program {}", program.name))
                .why(format!("package {} built without a binary of that name", program.package))
        })?;
        let libraries = libraries(paths, &executable).await?;
        anyhow::Ok((program.name, Built { executable, libraries }))
    });
    Ok(try_join_all(each).await?.into_iter().collect())
}

async fn command(paths: &Paths, programs: &[Binary], profile: Profile) -> anyhow::Result<Command> {
    let mut command = cargo();
    command.current_dir(paths.workspace()?).args(["build", "--locked", "--message-format=json-render-diagnostics"]);
    // The whole workspace's features, so that nothing is compiled twice for the sake of another selection.
    command.arg("--workspace");
    for program in programs {
        command.args(["--bin", program.name]);
    }
    if profile == Profile::Ship {
        // An explicit target keeps the flag away from build scripts and procedural macros, which cannot be static.
        command.args(["--profile", "ship", "--target", &host().await?]);
        command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    Ok(command)
}

/// Runs a cargo command that reports in JSON; answers with the path of each binary by name.
pub(crate) async fn run(mut command: Command, task: &crate::ui::Task) -> anyhow::Result<HashMap<String, PathBuf>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cargo could not be run")?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let (output, errors) = (output.context("cargo has no output")?, errors.context("cargo has no error output")?);
    let reports = async {
        let mut binaries = HashMap::new();
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some((name, executable)) = binary(&line) {
                binaries.insert(name, executable);
            }
        }
        Ok::<_, std::io::Error>(binaries)
    };
    let diagnostics = async {
        let mut kept = Vec::new();
        let mut lines = BufReader::new(errors).lines();
        while let Some(line) = lines.next_line().await? {
            task.update(line.trim());
            kept.push(line);
        }
        Ok::<_, std::io::Error>(kept)
    };
    let (binaries, kept) = tokio::try_join!(reports, diagnostics)?;
    let status = child.wait().await?;
    if status.success() {
        return Ok(binaries);
    }
    let tail = kept[kept.len().saturating_sub(40)..].join("\n    ");
    Err(Failure::new(Exit::Image, "the programs do not compile")
        .why(format!("cargo ended with {status}\n    {tail}"))
        .into())
}

/// The cargo that runs this program, so that both are of the same toolchain, in the environment of a shell.
///
/// `cargo run` describes the package it runs in variables that build scripts watch: handed on, they make every one of
/// those scripts, and all that depends on them, look changed each time.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_a_package) {
            command.env_remove(name);
        }
    }
    command
}

fn describes_a_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
}

async fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().await.context("rustc could not be run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it compiles for")
}

/// One line of cargo's report: the name and path of a binary that is no test harness.
fn binary(line: &str) -> Option<(String, PathBuf)> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        target: Option<Target>,
        profile: Option<Built>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Built {
        test: bool,
    }
    let message: Message = serde_json::from_str(line).ok()?;
    let target = message.target?;
    let program = message.reason == "compiler-artifact" && target.kind == ["bin"] && !message.profile?.test;
    program.then_some((target.name, message.executable?))
}

/// The shared libraries an executable needs, loader included; empty for a static one.
async fn libraries(paths: &Paths, executable: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // Which libraries those need in turn may change without the executable; whoever installs one renews the cache.
    let memo = Memo::of(paths, "libraries", executable)?.and(Path::new("/etc/ld.so.cache"))?;
    let lines = |text: String| text.lines().map(PathBuf::from).collect::<Vec<_>>();
    if let Some(known) = memo.known().map(lines).filter(|known| known.iter().all(|library| library.is_file())) {
        return Ok(known);
    }
    let output =
        Command::new("ldd").arg(executable).env("LC_ALL", "C").output().await.context("ldd could not be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(!text.contains("not found"), "{} lacks a library: {text}", executable.display());
    let found = loaded(&text);
    memo.keep(&found.iter().map(|library| library.display().to_string()).collect::<Vec<_>>().join("\n"))?;
    Ok(found)
}

/// The paths in the output of `ldd`.
fn loaded(output: &str) -> Vec<PathBuf> {
    let path_of = |line: &str| {
        let line = line.trim();
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    output.lines().filter_map(path_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let dynamic = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            loaded(dynamic),
            ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
                .map(PathBuf::from)
        );
        assert!(loaded("\tstatically linked\n").is_empty());
    }

    #[test]
    fn only_programs_are_taken_from_cargos_report() {
        let line = |kind: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"wopr-api"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = binary(&line("bin", false, r#""/t/debug/wopr-api""#));
        assert_eq!(found, Some(("wopr-api".to_owned(), PathBuf::from("/t/debug/wopr-api"))));
        assert_eq!(binary(&line("bin", true, r#""/t/debug/deps/wopr_api-1""#)), None);
        assert_eq!(binary(&line("lib", false, "null")), None);
        assert_eq!(binary(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(binary("warning: text"), None);
    }
}
