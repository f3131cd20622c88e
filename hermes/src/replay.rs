//! `hermes replay`: the requests of a recorded trace on any OpenAI-compatible server.

use std::process::ExitCode;

use hermes_integration::load::{ReplayArgs, replay};

use crate::{failure::Failure, output};

/// Replays the trace and prints what a client saw.
pub(crate) async fn run(args: ReplayArgs) -> Result<ExitCode, Failure> {
    let json = args.json;
    let report = replay(args).await?;
    output::report(&report, json)
}
