//! `hermes engine`: one simulated model server, until a signal ends it.

use std::time::Duration;

use hermes_engine_sim::{Engine, EngineArgs, EngineHandle, PairRole};
use hermes_runtime::{
    shutdown::{Drain, Shutdown},
    telemetry::{LogFormat, Service, Telemetry},
};

use crate::{failure::Failure, output, process};

/// What a simulated engine calls itself in traces.
const SERVICE: Service = Service {
    name: "hermes-engine",
    ..process::SERVICE
};

/// Over the engine's own grace for requests in flight, which is what decides.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the engine.
pub(crate) async fn run(args: EngineArgs) -> Result<(), Failure> {
    let telemetry = Telemetry::init(SERVICE, LogFormat::Text)?;
    let shutdown = Shutdown::from_signals().map_err(Failure::Process)?;
    let engine = Engine::start(args.into()).await.map_err(Failure::Engine)?;
    let (model, url) = (&engine.config().model, engine.url());
    output::line(format_args!("listening on {url}"))?;
    if let Some((publish, replay)) = engine.kv_events_addrs() {
        let replay = replay
            .map(|replay| format!(", replays on tcp://{replay}"))
            .unwrap_or_default();
        output::line(format_args!("KV events on tcp://{publish}{replay}"))?;
    }
    if let Some(pair) = &engine.config().pair {
        let side_channel = engine
            .side_channel_addr()
            .map(|address| format!(", found by decode engines at {address}"))
            .unwrap_or_default();
        let role = match pair.role {
            PairRole::Prefill => "a prefill engine",
            PairRole::Decode => "a decode engine",
            PairRole::Both => "an engine for prefill and decode",
        };
        output::line(format_args!(
            "{role}{side_channel}; what it sees of pairs: curl {url}/sim/pairs"
        ))?;
    }
    output::line(format_args!(
        "serves the model {model}; try: curl {url}/v1/models"
    ))?;
    let drain = shutdown.drain();
    tokio::join!(shutdown.run(GRACE), stop(&engine, drain));
    telemetry.shutdown(process::SHUTDOWN_GRACE).await;
    Ok(())
}

/// Stops the engine when the drain begins, and at once when it is forced.
async fn stop(engine: &EngineHandle, drain: Drain) {
    let _stopping = drain.track();
    drain.draining().await;
    tokio::select! {
        () = engine.stop() => {}
        () = drain.forced() => engine.kill().await,
    }
}
