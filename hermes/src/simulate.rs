//! `hermes simulate`: what policies would do to a trace, in a model of a fleet.

use std::{io::stdout, process::ExitCode};

use hermes_bench::report::WriteError;
use hermes_bench::simulate::{SimulateArgs, SimulateError, simulate};

use crate::failure::Failure;

/// Simulates and prints the comparison.
pub(crate) fn run(args: &SimulateArgs) -> Result<ExitCode, Failure> {
    match simulate(args, &mut stdout().lock()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(SimulateError::Write(WriteError::Output(error))) => Err(Failure::Output(error)),
        Err(error) => Err(error.into()),
    }
}
