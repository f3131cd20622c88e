//! Standard output: results, and what a script waits for. Logs go to standard error.

use std::{
    fmt::Display,
    io::{Write, stdout},
    process::ExitCode,
};

use hermes_bench::load::Report;

use crate::failure::Failure;

/// Prints a line, at once: a script may wait for it.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    let mut out = stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Prints what a load has seen. It is a failure when requests ended and none ended well.
pub(crate) fn report(report: &Report, json: bool) -> Result<ExitCode, Failure> {
    report
        .write(json, &mut stdout().lock())
        .map_err(Failure::Output)?;
    Ok(verdict(report))
}

/// See [`report`].
pub(crate) fn verdict(report: &Report) -> ExitCode {
    if report.requests > 0 && report.ok == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
