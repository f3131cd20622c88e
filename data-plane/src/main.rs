//! `hermes-data-plane`: parse, start, wait.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use hermes_data_plane::{app, args::DataPlaneArgs};
use hermes_runtime::{
    shutdown::Shutdown,
    telemetry::{Service, Telemetry},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
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
    let shutdown = Shutdown::from_signals()?;
    let bound = app::start(args.options()?, shutdown.drain()).await?;
    shutdown.run(args.drain).await;
    bound.tasks.shutdown(Duration::from_secs(1)).await;
    telemetry.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
