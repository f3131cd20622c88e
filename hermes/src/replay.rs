//! `hermes replay`: the requests of a recorded trace on a server, or on a whole fleet started for
//! it.

use std::{io::stdout, process::ExitCode};

use hermes_bench::replay::{ReplayArgs, live, replay};
use hermes_bench::report::WriteError;

use crate::{failure::Failure, output};

/// Replays the trace and prints what a client saw, or how the policies compare.
pub(crate) async fn run(args: ReplayArgs) -> Result<ExitCode, Failure> {
    if args.live.policies.is_empty() {
        let json = args.json;
        let report = replay(args).await?;
        return output::report(&report, json);
    }
    let comparison = live::replay(&args).await?;
    match live::output(&args).write(&comparison, &mut stdout().lock()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(WriteError::Output(error)) => Err(Failure::Output(error)),
        Err(error) => Err(Failure::Page(error)),
    }
}
