//! `hermes load`: made-up requests on any OpenAI-compatible server.

use std::process::ExitCode;

use hermes_bench::load::{LoadArgs, load};

use crate::{failure::Failure, output};

/// Sends the load and prints what a client saw.
pub(crate) async fn run(args: LoadArgs) -> Result<ExitCode, Failure> {
    let report = load(&args).await?;
    output::report(&report, args.json)
}
