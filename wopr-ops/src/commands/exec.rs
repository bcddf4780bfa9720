//! `exec`: a program inside a container, with this command's input, output and exit code.

use std::{
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use anyhow::Context;
use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecResults},
};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::{cli::ExecArgs, engine, exec::sites::find, paths::Paths};

/// Answers with the program's exit code.
pub(crate) async fn run(paths: &Paths, args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let (site, name) = find(paths, engine::require().await?, &args.service).await?;
    let options = CreateExecOptions {
        cmd: Some(args.command.clone()),
        attach_stdin: Some(args.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let exec =
        site.engine.create_exec(&name, options).await.with_context(|| format!("nothing can be run in {name}"))?;
    if let StartExecResults::Attached { mut output, mut input } = site.engine.start_exec(&exec.id, None).await? {
        let feed = async {
            if args.stdin {
                let mut given = tokio::fs::File::open("/dev/stdin").await?;
                tokio::io::copy(&mut given, &mut input).await?;
                input.shutdown().await?;
            }
            std::future::pending::<std::io::Result<()>>().await
        };
        let show = async {
            while let Some(chunk) = output.next().await {
                match chunk? {
                    LogOutput::StdErr { message } => stderr().write_all(&message)?,
                    other => stdout().write_all(&other.into_bytes())?,
                }
            }
            anyhow::Ok(())
        };
        // The program may end without having read all of its input.
        tokio::select! {
            done = show => done?,
            broken = feed => broken?,
        }
        stdout().flush()?;
    }
    let code = site.engine.inspect_exec(&exec.id).await?.exit_code.context("the program has no exit code")?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
