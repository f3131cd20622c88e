//! A replay with everything on this machine: simulated engines, both planes, and a client, one
//! policy after the other.
//!
//! ```text
//! traffic ─▶ driver ──HTTP──▶ proxies ──HTTP──▶ simulated engines       the servers that `simulate` models
//!               │                │ Score
//!               ▼                ▼
//!            served         control plane                                the real one, over real gRPC
//! ```
//!
//! A simulation predicts what a rule would do; this measures what the router does: real code, real
//! sockets and real time, divided by a factor. Servers, traffic and report are those of
//! [`crate::simulate`], so that the two can be compared. Invariant: every policy begins with empty
//! caches and freshly started planes.

mod driver;
mod fleet;

use std::time::Duration;

use clap::Args;
use hermes_control_plane::config::{Config, ConfigErrors};
use tokio_util::sync::CancellationToken;

use self::driver::Driver;
use self::fleet::LiveFleet;

use super::ReplayArgs;
use crate::fleet::FleetError;
use crate::load::client::{BadTarget, Limits};
use crate::load::{positive, until_interrupted};
use crate::report::{Comparison, ComparisonArgs, ObjectiveArgs, Outcome, Row};
use crate::simulate::{FleetArgs, Settings, Traffic, TrafficError, count, title};

/// The arguments of a replay on this machine, besides the trace.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "With --policies")]
pub struct LiveReplayArgs {
    /// Start simulated engines and both planes here, once for each of these strategies of the
    /// router, separated by commas, and compare them
    #[arg(long, value_name = "NAMES", value_delimiter = ',',
        conflicts_with_all = ["target", "shrink", "duration", "ignore_eos"])]
    pub policies: Vec<String>,
    /// Let all time pass this many times as fast; what the router itself needs then counts for as
    /// much more
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = positive)]
    pub compress: f64,
    /// How many proxies
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub proxies: usize,
    /// Decides which proxy a request reaches
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Also write a page with figures and plots to this file; it needs nothing else to be read
    #[arg(long, value_name = "FILE", requires = "policies")]
    pub html: Option<std::path::PathBuf>,
    /// The servers
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// What counts as good
    #[command(flatten)]
    pub objectives: ObjectiveArgs,
}

/// Why a live replay did not run.
#[derive(Debug, thiserror::Error)]
pub enum LiveReplayError {
    /// The trace is not one.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The router has no such strategy.
    #[error("{0}")]
    Policy(#[from] ConfigErrors),
    /// Something does not start.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A proxy's address is none; cannot happen with addresses that were bound.
    #[error(transparent)]
    Target(#[from] BadTarget),
}

/// What a live replay uses for every policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Simulated time over real time.
    pub(crate) compress: f64,
    /// Requests in flight at once.
    pub(crate) concurrency: usize,
    /// What one request may take, in real time.
    pub(crate) limits: Limits,
}

/// Replays the trace once for each policy; ends early, with what has been seen so far, on Ctrl-C.
///
/// # Errors
/// A trace that cannot be read, a strategy that the router does not have, or something that does
/// not start.
pub async fn replay(args: &ReplayArgs) -> Result<Comparison, LiveReplayError> {
    let LiveReplayArgs {
        policies,
        compress,
        proxies,
        seed,
        fleet,
        ..
    } = &args.live;
    let limit = args
        .limit
        .and_then(|limit| limit.try_into().ok())
        .unwrap_or(usize::MAX);
    let traffic = Traffic::open(&args.trace, None, limit)?;
    for policy in policies {
        Config::parse(&self::fleet::yaml(policy, fleet.roles()))?;
    }
    let objectives = args.live.objectives.into();
    let settings = Settings {
        objectives,
        ..fleet.settings(args.scale, *seed)
    };
    let limits = Limits::answer_within(Duration::from_secs(args.timeout));
    let pace = Pace {
        compress: *compress,
        concurrency: args.concurrency,
        limits,
    };
    let runs = async |stop| all(&settings, &traffic, policies, *proxies, pace, stop).await;
    let rows = until_interrupted(runs).await?;
    let mut facts = traffic.facts(args.scale);
    facts.extend(fleet.facts());
    facts.extend([
        ("proxies", proxies.to_string()),
        ("compressed", format!("{compress}-fold")),
        objectives.fact(),
    ]);
    let failed = rows.iter().filter(|(_, failed)| *failed > 0);
    facts.extend(failed.map(|(row, failed)| ("failed", format!("{failed} under {}", row.policy))));
    let rows = rows.into_iter().map(|(row, _)| row).collect();
    Ok(Comparison {
        title: format!("{}, replayed", title(&args.trace)),
        facts,
        rows,
    })
}

/// Where the result of `args` goes.
#[must_use]
pub fn output(args: &ReplayArgs) -> ComparisonArgs {
    ComparisonArgs {
        json: args.json,
        html: args.live.html.clone(),
    }
}

/// One row and its failed requests for each policy that was not interrupted before it began.
async fn all(
    settings: &Settings,
    traffic: &Traffic,
    policies: &[String],
    proxies: usize,
    pace: Pace,
    stop: CancellationToken,
) -> Result<Vec<(Row, usize)>, LiveReplayError> {
    let mut rows = Vec::new();
    for policy in policies {
        if stop.is_cancelled() {
            break;
        }
        let LiveFleet { fleet, network } = self::fleet::start(
            settings,
            traffic.block_tokens(),
            policy,
            proxies,
            pace.compress,
        )
        .await?;
        let driver = Driver::new(&fleet, traffic, settings, pace)?;
        let (served, failed) = driver.run(policy, stop.clone()).await;
        let requests = served.len().max(1) as f64;
        let outcome = Outcome::new(served, settings.roles.servers(), settings.objectives);
        // Answers do not state whether they were split.
        let split = network.taken() as f64 / requests;
        let outcome = Outcome { split, ..outcome };
        rows.push((Row::new(policy, outcome), failed));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests;
