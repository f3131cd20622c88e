//! `hermes-data-plane`: parse, start, wait.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use hermes_data_plane::{app, args::DataPlaneArgs};
use hermes_runtime::{
    open_files, panics,
    shutdown::Shutdown,
    telemetry::{Service, Telemetry},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Clients have threads of their own. One more is enough for the streams to control planes: with one
// for each core, every message would wake a second thread that finds nothing to do.
#[tokio::main(worker_threads = 1)]
async fn main() -> ExitCode {
    match run(DataPlaneArgs::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hermes-data-plane: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: DataPlaneArgs) -> Result<(), Box<dyn std::error::Error>> {
    let service = Service {
        name: "hermes-data-plane",
        version: env!("CARGO_PKG_VERSION"),
    };
    let telemetry = Telemetry::init(service, args.log_format)?;
    open_files::raise_limit();
    panics::install_hook();
    let shutdown = Shutdown::from_signals()?;
    let bound = app::start(args.options()?, shutdown.drain()).await?;
    shutdown.run(args.drain).await;
    bound.tasks.shutdown(Duration::from_secs(1)).await;
    telemetry.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
