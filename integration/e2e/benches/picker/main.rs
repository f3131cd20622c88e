//! What Hermes costs as a gateway's endpoint picker: behind Envoy, whose own cost is counted apart,
//! and asked by a gateway that does nothing else.
//!
//! ```text
//!   load process ──▶ Envoy ──▶ engines, or backends that cost almost nothing
//!                      ╚══════▶ hermes serve, both planes in one process, `kv-aware`
//!   load process ──▶ Envoy, without a picker ──▶ a backend
//!   gateway process ═══════▶ hermes serve           the messages of a gateway, from a script
//! ```
//!
//! All processes are on loopback; CPU and memory are read from `/proc`. Rows that compare two ways
//! take turns, and each number is the median over the rounds. Envoy is the one that
//! `benches/peers/install envoy` installs, with `integration/gateways/envoy.yaml`.
//!
//! Run: `cargo bench -p hermes-e2e --bench picker -- [--quick] [--hermes target/dist/hermes]`
#![expect(
    unreachable_pub,
    reason = "a binary: its modules have no users outside it"
)]

#[path = "../proxy/backend.rs"]
mod backend;
mod chat_engine;
mod envoy;
mod gateway;
#[path = "../proxy/process.rs"]
mod process;
mod rows;
mod scene;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hermes_bench::load::{LoadArgs, LoadError, load};

use gateway::GatewayArgs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures what asking Hermes where requests go costs.
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
    #[command(hide = true)]
    Gateway(GatewayArgs),
}

/// What is measured, and with which binary.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The Hermes binary [default: target/dist/hermes]
    #[arg(long, value_name = "PATH")]
    pub hermes: Option<PathBuf>,
    /// One short round instead of three
    #[arg(long)]
    pub quick: bool,
    /// Only these rows
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Row>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Chats of 4,000 prompt tokens and 60 streamed ones, through Envoy
    Chats,
    /// Small requests at 8 connections, through Envoy with and without a picker
    Small,
    /// Prompts of 220 KB at 200 connections, through Envoy
    Long,
    /// The same from a gateway that does nothing else
    Asked,
    /// Answers of 5,000 streamed tokens, 2,500 at once, from such a gateway
    Streams,
}

/// Why the bench stopped.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An operation of the system.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Load that cannot be sent.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A process of this binary that failed.
    #[error("the load process ended without a report: {0}")]
    NoReport(String),
    /// A stream that failed.
    #[error("the picker failed: {0}")]
    Picker(#[from] tonic::Status),
    /// A connection that failed.
    #[error("the picker cannot be reached: {0}")]
    Unreachable(#[from] tonic::transport::Error),
}

/// Names what was being done when an operation of the system failed.
fn failed(what: &'static str) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

/// One thread: load and backends are to leave the rest of the machine to what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.role {
        Some(Role::Backend) => backend::serve().await.map_err(failed("serve as a backend")),
        Some(Role::Load(args)) => report(&args).await,
        Some(Role::Gateway(args)) => gateway::run(&args).await,
        None => tokio::select! {
            done = rows::measure(&cli.bench) => done,
            // Dropping the measurement ends the processes it has started.
            _ = tokio::signal::ctrl_c() => Ok(()),
        },
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    say(&format!("picker bench: {error}"));
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
