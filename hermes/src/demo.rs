//! `hermes demo`: the router at work, with nothing else to set up.
//!
//! ```text
//!   chats ─▶ data plane ─▶ four simulated engines, the last one at half speed
//!    (load)      ▲  │ reports     ▲ what they hold
//!                │  ▼             │
//!            control plane ─▶ KV manager
//! ```
//!
//! The same chats run three times, each time with fresh engines and planes: with round robin, with
//! the engine that has the fewest requests, and with `kv-aware`, which sends a request where its
//! conversation is cached and the queue is short. It ends by itself, or at Ctrl-C with the results
//! so far.

mod moment;
mod outcome;
mod phase;
mod scene;
mod summary;
mod view;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use clap::Args;
use hermes_runtime::{
    shutdown::{Drain, Shutdown},
    telemetry::{LogFormat, Telemetry},
};

use self::{outcome::Outcome, phase::Plan, summary::Summary, view::View};
use crate::{failure::Failure, output, process};

/// Limit for the end of a demo after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// The strategies that are compared, in this order. Round robin ignores that one engine is slow;
/// least-request does not, and so shows what knowing the caches adds.
const STRATEGIES: [&str; 3] = ["round-robin", "least-request", "kv-aware"];

/// The command line of `hermes demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Take ten seconds instead of a minute: users and engines are three times as fast
    #[arg(long)]
    quick: bool,

    /// Print lines instead of a live view, as on a pipe
    #[arg(long)]
    plain: bool,
}

/// Runs the demo.
pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let live = !args.plain && std::io::stdout().is_terminal();
    let telemetry = Telemetry::from_environment(
        &|name: &str| variable(name, live),
        process::SERVICE,
        LogFormat::Text,
    )?;
    let shutdown = Shutdown::from_signals().map_err(Failure::Process)?;
    let drain = shutdown.drain();
    let working = drain.track();
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let show = async {
        let outcomes = perform(plan, live, &drain).await;
        drop(working);
        outcomes
    };
    let outcomes = tokio::select! {
        biased;
        outcomes = show => outcomes?,
        // A second Ctrl-C, or a phase that does not end.
        _forced = shutdown.run(GRACE) => return Ok(ExitCode::FAILURE),
    };
    output::line(Summary(&outcomes))?;
    telemetry.shutdown(process::SHUTDOWN_GRACE).await;
    Ok(verdict(&outcomes))
}

/// Runs one phase for each strategy, until the drain begins.
async fn perform(plan: Plan, live: bool, drain: &Drain) -> Result<Vec<Outcome>, Failure> {
    let mut view = View::open(live, plan.phase).map_err(Failure::Output)?;
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(STRATEGIES.len());
    for strategy in STRATEGIES {
        if drain.is_draining() {
            break;
        }
        let outcome = phase::perform(strategy, plan, &outcomes, &mut view, drain).await?;
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The environment, with fewer log lines: they would break the live view, and hide the plain one.
fn variable(name: &str, live: bool) -> Option<String> {
    match (name, live) {
        ("HERMES_LOG", true) => Some("off".to_owned()),
        ("HERMES_LOG", false) => std::env::var(name)
            .ok()
            .or_else(|| Some("error".to_owned())),
        _ => std::env::var(name).ok(),
    }
}

/// The exit status: failure if any phase had no successful request.
fn verdict(outcomes: &[Outcome]) -> ExitCode {
    let codes = outcomes
        .iter()
        .map(|outcome| output::verdict(&outcome.report));
    codes
        .into_iter()
        .find(|code| *code != ExitCode::SUCCESS)
        .unwrap_or(ExitCode::SUCCESS)
}
