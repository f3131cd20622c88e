//! `hermes simulate`, as a command line.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::outcome::Outcome;
use super::policies::{POLICIES, Policy, Setup};
use super::run::{RunError, run};
use super::settings::{Settings, Slow};
use super::traffic::{Traffic, TrafficError};
use crate::engine::EngineConfig;
use crate::load::positive;

/// Simulates a fleet on a trace under several policies and compares them.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The trace, one JSON object a line
    pub trace: PathBuf,
    /// Let requests arrive this many times as fast as in the trace
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = positive)]
    pub scale: f64,
    /// Stop after this many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// The policies to compare, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = policy)]
    pub policies: Vec<Policy>,
    /// How many servers
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count)]
    pub servers: usize,
    /// The last SHARE of the servers run at FACTOR speed, such as 0.5:0.4
    #[arg(long, value_name = "SHARE:FACTOR", value_parser = slow)]
    pub slow: Option<Slow>,
    /// How many proxies, each with its own knowledge where the policy shares none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub proxies: usize,
    /// Decides everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Prompt tokens a server computes in a second
    #[arg(long, value_name = "TOKENS", default_value_t = 8_000.0, value_parser = positive)]
    pub prefill_rate: f64,
    /// The fixed part of a step, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 8.0, value_parser = positive)]
    pub step: f64,
    /// What each decoding request adds to a step, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.2, value_parser = positive)]
    pub step_per_decode: f64,
    /// Most tokens computed in one step
    #[arg(long, value_name = "TOKENS", default_value_t = 8_192, value_parser = count)]
    pub step_budget: usize,
    /// Most requests that a server runs at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count)]
    pub max_running: usize,
    /// KV blocks in a server's memory
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = count)]
    pub blocks: usize,
    /// Tokens in one of those blocks
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = count)]
    pub block_size: usize,
    /// Print one JSON array with an object for each policy
    #[arg(long)]
    pub json: bool,
}

/// Why a simulation came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The trace is not one.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The servers are none.
    #[error("no such server: {0}")]
    Engine(io::Error),
    /// A policy does not do its work.
    #[error("policy {policy}: {error}")]
    Run {
        /// Its name.
        policy: &'static str,
        /// What it did.
        error: RunError,
    },
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Write(#[from] io::Error),
}

#[derive(Serialize)]
struct Row<'a> {
    policy: &'static str,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// Runs the simulation and writes its result to `out`.
///
/// # Errors
/// A trace that cannot be read, servers that cannot be, or an `out` that fails.
pub fn simulate(args: &SimulateArgs, out: &mut dyn Write) -> Result<(), SimulateError> {
    let traffic = Traffic::open(&args.trace, args.limit.unwrap_or(usize::MAX))?;
    let settings = args.settings();
    settings.engine.check().map_err(SimulateError::Engine)?;
    let block_tokens = traffic.block_tokens();
    let setup =
        Setup { servers: settings.servers, block_tokens, blocks: settings.blocks(block_tokens), seed: settings.seed };
    let policies = if args.policies.is_empty() { POLICIES } else { &args.policies };
    let mut outcomes = Vec::new();
    for policy in policies {
        let mut dispatcher = policy.dispatcher(setup, args.proxies);
        let outcome = run(&settings, &traffic, &mut *dispatcher, &mut |_| ())
            .map_err(|error| SimulateError::Run { policy: policy.name, error })?;
        outcomes.push((policy.name, outcome));
    }
    if args.json {
        let rows: Vec<Row<'_>> = outcomes.iter().map(|(policy, outcome)| Row { policy, outcome }).collect();
        serde_json::to_writer(&mut *out, &rows).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<16}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>9}",
        "policy", "hits", "ttft", "p50", "p90", "p99", "tpot", "hotspot"
    )?;
    for (policy, outcome) in &outcomes {
        let Outcome { hit_rate, ttft, tpot, hotspot, .. } = outcome;
        writeln!(
            out,
            "{policy:<16}{:>6.1} %{:>10.3}{:>10.3}{:>10.3}{:>10.3}{:>10.4}{hotspot:>9.2}",
            hit_rate * 100.0,
            ttft.mean,
            ttft.p50,
            ttft.p90,
            ttft.p99,
            tpot.mean,
        )?;
    }
    Ok(())
}

impl SimulateArgs {
    fn settings(&self) -> Settings {
        let Self { scale, servers, slow, seed, prefill_rate, step, step_per_decode, .. } = *self;
        let Self { step_budget, max_running, blocks, block_size, .. } = *self;
        let milliseconds = |ms: f64| std::time::Duration::from_secs_f64(ms / 1_000.0);
        let engine = EngineConfig {
            prefill_rate,
            step_base: milliseconds(step),
            step_per_decode: milliseconds(step_per_decode),
            step_budget,
            max_running,
            blocks,
            block_size,
            max_model_len: usize::MAX,
            ..EngineConfig::default()
        };
        Settings { servers, engine, slow, scale, seed }
    }
}

fn policy(name: &str) -> Result<Policy, String> {
    let names = || POLICIES.iter().map(|policy| policy.name).collect::<Vec<_>>().join(", ");
    Policy::named(name).ok_or_else(|| format!("expected one of {}", names()))
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a number above 0".to_owned())
}

fn slow(text: &str) -> Result<Slow, String> {
    let parse = || {
        let (share, factor) = text.split_once(':')?;
        let (share, factor) = (share.parse().ok()?, factor.parse().ok()?);
        ((0.0..=1.0).contains(&share) && factor > 0.0 && factor <= 1_000.0).then_some(Slow { share, factor })
    };
    parse().ok_or_else(|| "expected SHARE:FACTOR, such as 0.5:0.4, with a share of 0 to 1".to_owned())
}
