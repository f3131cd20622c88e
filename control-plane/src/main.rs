//! `hermes-control-plane`: see the library.

use std::process::ExitCode;

use clap::Parser;
use hermes_control_plane::{args::Args, process};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match process::run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hermes-control-plane: {error}");
            ExitCode::FAILURE
        }
    }
}
