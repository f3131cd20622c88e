//! `hermes kv-manager`: a global KV manager for tests with simulated engines, until a signal ends
//! it.

use hermes_bench::kv_manager::{KvManager, KvManagerArgs};
use hermes_runtime::shutdown::Shutdown;

use crate::{failure::Failure, output, process};

/// Runs the manager.
pub(crate) async fn run(args: KvManagerArgs) -> Result<(), Failure> {
    let shutdown = Shutdown::from_signals().map_err(Failure::Process)?;
    let listening = KvManager::start(&args).await;
    let server = listening.map_err(|source| Failure::Listen {
        address: args.listen,
        flag: "--listen",
        source,
    })?;
    output::line(format_args!("listening on {}", server.url()))?;
    shutdown.run(process::SHUTDOWN_GRACE).await;
    Ok(())
}
