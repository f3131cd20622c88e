//! `hermes record`: what running proxies serve, as a trace.

use std::{io::stdout, process::ExitCode};

use hermes_bench::record::{RecordArgs, RecordError, Recorded, Recording};

use crate::failure::Failure;

/// Records, and says on standard error how it goes: standard output may be the recording.
pub(crate) async fn run(args: RecordArgs) -> Result<ExitCode, Failure> {
    let recording = Recording::begin(&args).await?;
    eprintln!("recording {}; Ctrl-C ends it", args.admin.join(", "));
    let Recorded {
        records,
        lost,
        gone,
    } = recording
        .run(&mut stdout())
        .await
        .map_err(|error| match error {
            RecordError::Write(error) if args.output.is_none() => Failure::Output(error),
            error => Failure::Record(error),
        })?;
    for admin in gone {
        eprintln!("the proxy at {admin} ended");
    }
    let to = args
        .output
        .map(|path| format!(" to {}", path.display()))
        .unwrap_or_default();
    eprintln!("recorded {records} requests{to}");
    if lost > 0 {
        eprintln!(
            "{lost} requests are missing: lines were written more slowly than requests finished"
        );
    }
    Ok(ExitCode::SUCCESS)
}
