//! `hermes completions`: tab completion.

use std::io::{Write, stdout};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::Failure;

/// The command line of `hermes completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell to complete in
    shell: Shell,
}

/// Prints the completion script of `command` for the shell.
pub(crate) fn run(args: &CompletionsArgs, command: &mut Command) -> Result<(), Failure> {
    // Through memory: the generator panics when its writer fails, and a reader may be gone.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "hermes", &mut script);
    stdout().lock().write_all(&script).map_err(Failure::Output)
}
