//! `hermes simulate`, as it runs.

use std::io::{self, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::SimulateArgs;
use super::bound::lower_bound;
use super::field::{Field, UselessServers};
use super::race::{Race, RaceError};
use super::settings::Settings;
use super::traffic::{Traffic, TrafficError};
use crate::report::{Comparison, Objectives, Row, WriteError};

/// Why a simulation came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The trace is not one.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The servers are none.
    #[error("there is no such server: {0}")]
    Server(io::Error),
    /// No policy can use the servers.
    #[error("{0}")]
    Servers(#[from] UselessServers),
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
    let objectives = Objectives::from(args.objectives);
    let settings = Settings {
        objectives,
        ..fleet.settings(*scale, *seed)
    };
    settings.engine.check().map_err(SimulateError::Server)?;
    let field = Field::of(&args.policies, settings.roles, args.splits)?;
    let bar = progress_bar(traffic.requests().len() * field.entrants.len());
    let race = Race {
        settings: &settings,
        traffic: &traffic,
        proxies: *proxies,
        progress: &|served| bar.inc(served as u64),
    };
    let rows = match args.goodput {
        Some(share) => race.at_highest_load(&field.entrants, share),
        None => race.at_load(&field.entrants),
    };
    bar.finish_and_clear();
    let bound = lower_bound(&settings, &traffic);
    let rows = rows?.into_iter().map(|row| row.over_bound(bound));
    let mut rows: Vec<Row> = rows.collect();
    field.name_fleets(&mut rows);
    let mut facts = traffic.facts(*scale);
    let spread = |most| ("spread", format!("{most:?}"));
    facts.extend(args.spread.map(spread));
    facts.extend(fleet.facts());
    facts.extend([("proxies", proxies.to_string()), ("seed", seed.to_string())]);
    facts.push(("lower bound", format!("{bound:.4} s")));
    facts.push(objectives.fact());
    if args.splits {
        facts.push(fleet.transfer_fact());
    }
    facts.extend(field.facts(&rows));
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
        spread,
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
        let traffic = Traffic::open(trace, model.as_deref(), limit)?;
        let traffic = match spread {
            Some(most) => traffic.spread(*most, *seed),
            None => traffic,
        };
        return Ok((title(trace), traffic));
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
