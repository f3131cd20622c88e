//! `hermes simulate`, as a command line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::bound::lower_bound;
use super::fleet_args::{FleetArgs, count};
use super::policies::{POLICIES, Policy};
use super::race::{RaceError, race};
use super::traffic::{Traffic, TrafficError};
use crate::chats::ChatArgs;
use crate::load::positive;
use crate::report::{Comparison, ComparisonArgs, WriteError};

/// Simulates a fleet on a trace, or on made-up chats, under several policies and compares them.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The trace, one JSON object a line: Mooncake's format, or access records of Hermes
    #[arg(required_unless_present = "rate", conflicts_with_all = ["rate", "users"])]
    pub trace: Option<PathBuf>,
    /// The policies to compare, separated by commas; all of them if not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = policy, long_help = policies())]
    pub policies: Vec<Policy>,
    /// Let requests arrive this many times as fast as in the trace
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = positive)]
    pub scale: f64,
    /// Take only this many requests; of chats 3,000 if not given
    #[arg(long, value_name = "N", value_parser = count)]
    pub limit: Option<usize>,
    /// Take only requests for this model, if the trace names models
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// How many proxies, each with knowledge of its own unless the policy shares it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub proxies: usize,
    /// Decides everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Instead of a trace, chats of this many requests a second
    #[arg(long, value_name = "PER_SECOND", value_parser = positive, help_heading = "Chats")]
    pub rate: Option<f64>,
    /// Tokens of each answer in chats
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count, help_heading = "Chats")]
    pub tokens: usize,
    /// The chats
    #[command(flatten)]
    pub chats: ChatArgs,
    /// The servers
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Where the result goes
    #[command(flatten, next_help_heading = "Output")]
    pub output: ComparisonArgs,
}

/// Why a simulation came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The trace is not one.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The servers are none.
    #[error("there is no such server: {0}")]
    Server(io::Error),
    /// A policy does not do its work.
    #[error(transparent)]
    Race(#[from] RaceError),
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Runs the simulation and writes its result to `out`. Progress is shown on standard error, if that
/// is a terminal.
///
/// # Errors
/// A trace that cannot be read, servers that cannot be, or an `out` that fails.
pub fn simulate(args: &SimulateArgs, out: &mut dyn Write) -> Result<(), SimulateError> {
    let SimulateArgs {
        scale,
        proxies,
        seed,
        fleet,
        output,
        ..
    } = args;
    let (title, traffic) = traffic(args)?;
    let settings = fleet.settings(*scale, *seed);
    settings.engine.check().map_err(SimulateError::Server)?;
    let policies = if args.policies.is_empty() {
        POLICIES
    } else {
        &args.policies
    };
    let bar = progress_bar(traffic.requests().len() * policies.len());
    let rows = race(&settings, &traffic, policies, *proxies, &|served| {
        bar.inc(served as u64);
    });
    bar.finish_and_clear();
    let bound = lower_bound(&settings, &traffic);
    let rows = rows?.into_iter().map(|row| row.over_bound(bound)).collect();
    let mut facts = traffic.facts(*scale);
    facts.extend(fleet.facts());
    facts.extend([("proxies", proxies.to_string()), ("seed", seed.to_string())]);
    facts.push(("lower bound", format!("{bound:.4} s")));
    let comparison = Comparison {
        title: format!("{title}, simulated"),
        facts,
        rows,
    };
    Ok(output.write(&comparison, out)?)
}

/// The requests that `args` name, and what they are called.
fn traffic(args: &SimulateArgs) -> Result<(String, Traffic), TrafficError> {
    let SimulateArgs {
        trace,
        limit,
        model,
        rate,
        chats,
        tokens,
        seed,
        ..
    } = args;
    if let Some(trace) = trace {
        let limit = limit.unwrap_or(usize::MAX);
        return Ok((title(trace), Traffic::open(trace, model.as_deref(), limit)?));
    }
    // The command line demands a rate where there is no trace.
    let chats = chats.timed(rate.unwrap_or(1.0), *tokens, *seed);
    let limit = limit.unwrap_or(CHAT_REQUESTS);
    let title = format!("{} users with {} rounds", chats.users, chats.rounds);
    Ok((title, Traffic::of_chats(&chats, limit)?))
}

/// Requests of made-up chats: enough for the sessions of some hundred users.
const CHAT_REQUESTS: usize = 3_000;

/// The file name alone: a report is shown to others.
pub(crate) fn title(trace: &Path) -> String {
    trace
        .file_name()
        .unwrap_or(trace.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn progress_bar(requests: usize) -> ProgressBar {
    let bar = ProgressBar::new(requests as u64);
    match ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} requests") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn policies() -> String {
    let mut help =
        "The policies to compare, separated by commas; all of them if not given:".to_owned();
    for Policy { name, about, .. } in POLICIES {
        help.push_str(&format!("\n  {name:<16}{about}"));
    }
    help
}

fn policy(name: &str) -> Result<Policy, String> {
    let names = || {
        POLICIES
            .iter()
            .map(|policy| policy.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    Policy::named(name).ok_or_else(|| format!("expected one of {}", names()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        simulate: SimulateArgs,
    }

    fn parse(line: &str) -> Result<SimulateArgs, String> {
        let line = ["simulate", "trace.jsonl"]
            .into_iter()
            .chain(line.split_whitespace());
        Command::try_parse_from(line)
            .map(|command| command.simulate)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn policies_are_named_and_a_wrong_name_lists_the_right_ones() {
        let names = |args: SimulateArgs| {
            args.policies
                .iter()
                .map(|policy| policy.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(parse("--policies llm-d,omniscient").unwrap()),
            ["llm-d", "omniscient"]
        );
        assert!(
            parse("--policies best")
                .unwrap_err()
                .contains("expected one of round-robin, ")
        );
    }

    #[test]
    fn traffic_is_a_trace_or_chats_at_a_rate() {
        let parse = |line: &str| Command::try_parse_from(line.split_whitespace()).is_ok();
        assert!(parse("simulate trace.jsonl"));
        assert!(parse("simulate --rate 5 --users 48 --rounds 10"));
        for wrong in [
            "simulate",
            "simulate --users 48",
            "simulate trace.jsonl --rate 5",
            "simulate trace.jsonl --users 48",
            "simulate --rate 5 --users 0",
            "simulate --rate 5 --singles 1",
        ] {
            assert!(!parse(wrong), "{wrong}");
        }
    }

    #[test]
    fn numbers_that_describe_nothing_are_refused() {
        for wrong in [
            "--servers 0",
            "--scale 0",
            "--proxies 0",
            "--limit 0",
            "--prefill-rate -1",
            "--blocks x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
