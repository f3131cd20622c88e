//! What a request costs in Hermes and in the proxies people use instead, on this machine, in one
//! run.
//!
//! ```text
//! load process ──▶ proxy under test (one or more processes) ──▶ two backend processes
//!                  └── CPU and memory read from /proc before and after
//! ```
//!
//! Everything is on loopback. Load and backends are this same binary, started with a hidden
//! subcommand, so that their CPU time is not the proxy's. Contenders take turns within each round,
//! so that a noisy minute hits all of them, and each number is the median over the rounds. A
//! contender that is not installed is skipped with a message; install peers with
//! `benches/peers/install`.
//!
//! Run: `cargo bench -p hermes-e2e --bench proxy -- [--quick] [--hermes target/dist/hermes]`
#![expect(
    unreachable_pub,
    reason = "a binary: its modules have no users outside it"
)]

mod backend;
mod cell;
mod contender;
mod memory;
mod process;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hermes_bench::load::{LoadArgs, LoadError, load};

use backend::Backend;
use cell::{Cell, Plan};
use contender::{Contender, Wanted};
use table::Results;

/// Compares the cost of a request in Hermes with that in other proxies.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    bench: BenchArgs,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Backend,
    #[command(hide = true)]
    Load(Box<LoadArgs>),
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// The Hermes binary; its planes' own binaries are looked for beside it [default:
    /// target/dist/hermes]
    #[arg(long, value_name = "PATH")]
    hermes: Option<PathBuf>,
    /// About a minute: one round of one second a measurement instead of three of three
    #[arg(long)]
    quick: bool,
    /// Only these contenders, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Where to write the numbers as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave out the measurement of memory
    #[arg(long)]
    no_memory: bool,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Why the bench stopped.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("cannot {what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the load process ended without a report: {0}")]
    NoReport(String),
    #[error("none of the contenders is installed; run benches/peers/install or build hermes")]
    NoContender,
}

/// Names what was being done when an operation of the system failed.
fn failed(what: &'static str) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

/// One thread: load and backends are to leave the rest of the machine to the proxy.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.role {
        Some(Role::Backend) => backend::serve().await.map_err(failed("serve as a backend")),
        Some(Role::Load(args)) => report(&args).await,
        None => tokio::select! {
            done = compare(&cli.bench) => done,
            // Dropping the comparison ends the processes it has started.
            _ = tokio::signal::ctrl_c() => Ok(()),
        },
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    say(&format!("proxy bench: {error}"));
    ExitCode::FAILURE
}

/// Progress and trouble go to standard error, so that the table can be redirected.
fn say(line: &str) {
    // Nothing can be done about a closed standard error.
    _ = writeln!(io::stderr(), "{line}");
}

async fn report(args: &LoadArgs) -> Result<(), BenchError> {
    load(args)
        .await?
        .write(true, &mut io::stdout())
        .map_err(failed("write the report"))
}

async fn compare(args: &BenchArgs) -> Result<(), BenchError> {
    let backends = [Backend::start().await?, Backend::start().await?];
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let wanted = Wanted {
        hermes: args.hermes.clone(),
        only: args.only.clone(),
    };
    let contenders = wanted.start(&backends).await?;
    if contenders.iter().all(Contender::is_direct) {
        return Err(BenchError::NoContender);
    }
    let mut results = Results::new(&contenders);
    if !args.no_memory {
        for contender in &contenders {
            results.memory(contender, memory::measure(contender, &backends).await?);
        }
    }
    for contender in &contenders {
        say(&format!("warming up {}", contender.name));
        for cell in Cell::WARM_UP {
            cell.measure(contender, plan.warm_up).await?;
        }
    }
    for cell in Cell::ALL {
        for round in 1..=plan.rounds {
            say(&format!("{cell}, round {round} of {}", plan.rounds));
            for contender in &contenders {
                results.sample(
                    cell,
                    contender,
                    cell.measure(contender, plan.measurement).await?,
                );
            }
        }
    }
    write!(io::stdout(), "{results}").map_err(failed("write the table"))?;
    let Some(path) = &args.json else {
        return Ok(());
    };
    std::fs::write(path, results.json()).map_err(failed("write the JSON file"))
}
