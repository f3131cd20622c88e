//! The command line, and the one place where commands begin and end.

use std::{num::NonZero, process::ExitCode, thread};

use clap::{CommandFactory, Parser, Subcommand};
use hermes_bench::kv_manager::KvManagerArgs;
use hermes_bench::load::LoadArgs;
use hermes_bench::record::RecordArgs;
use hermes_bench::replay::ReplayArgs;
use hermes_bench::simulate::SimulateArgs;
use hermes_engine_sim::EngineArgs;

use crate::{
    check::{self, CheckArgs},
    completions::{self, CompletionsArgs},
    demo::{self, DemoArgs},
    engine,
    failure::Failure,
    kv_manager, load,
    process::SHUTDOWN_GRACE,
    record, replay,
    serve::{self, ServeArgs},
    simulate,
};

/// Routes requests for language models to the server that answers them soonest.
#[derive(Debug, Parser)]
#[command(name = "hermes", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
First steps:
  hermes demo                                     see what it does, in a minute
  hermes engine --listen 127.0.0.1:8100           a simulated model server, and
  hermes serve --endpoint http://127.0.0.1:8100   the router in front of it
  curl http://127.0.0.1:8000/v1/models            which any OpenAI client can use

Logs go to standard error; HERMES_LOG sets their level, such as HERMES_LOG=warn,hermes_data_plane=debug.
Traces follow the standard OTEL_* variables.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: the router in front of model servers, on this machine
    ///
    /// Control plane and data plane in one process, the same code as the two server binaries.
    #[command(after_help = "\
Examples:
  hermes serve --endpoint http://127.0.0.1:8100 --endpoint http://127.0.0.1:8101
  hermes serve --endpoint http://10.0.0.7:8000,http://10.0.0.8:8000 --strategy least-request --listen 0.0.0.0:8000
  hermes serve --config hermes.yaml          pools, Kubernetes, timeouts; see `hermes check`
  curl -s http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"model\":\"sim\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}'

It prints `listening on http://…` as its first line when clients may connect. Port 0 takes any free port.")]
    Serve(ServeArgs),
    /// See it work: four simulated engines, chats with a growing history, and three strategies
    /// compared
    ///
    /// Everything runs in this process and nothing else is needed. Requests go to the engines in
    /// turn, then to the one with the fewest requests, then to the one that answers soonest, given
    /// its queue and how much of the conversation is in its cache. It ends by itself, with a
    /// comparison.
    #[command(after_help = "\
Examples:
  hermes demo               about a minute; Ctrl-C ends it early, with the comparison so far
  hermes demo --quick       ten seconds, three times as fast
  hermes demo | cat         plain lines instead of a live view")]
    Demo(DemoArgs),
    /// Check a configuration file: everything that is wrong with it, or what it means
    ///
    /// Lists every error with its path and what is expected. Exits with 0 if the file is valid,
    /// with 1 if not.
    #[command(after_help = "\
Examples:
  hermes check hermes.yaml
  envsubst < hermes.yaml.in | hermes check -     from standard input")]
    Check(CheckArgs),
    /// Run one simulated model server: real HTTP, vLLM's bytes, no GPU
    ///
    /// It answers like vLLM (chat, completions, responses, messages, embeddings, rerank, score,
    /// models, metrics), batches requests in steps, keeps a block cache with LRU eviction, and
    /// queues what does not fit. Answers are deterministic words.
    #[command(after_help = "\
Examples:
  hermes engine --listen 127.0.0.1:8100
  hermes engine --listen 127.0.0.1:8101 --speed 0.4 --blocks 200     a slower one with less memory
  hermes engine --listen 127.0.0.1:8102 --role prefill --protocol vllm-nixl
                                                                     the prefill engine of pairs
  curl -d '{\"kind\":\"status\",\"code\":503,\"requests\":3}' http://127.0.0.1:8100/sim/faults
                                                                     fails the next three requests")]
    Engine(EngineArgs),
    /// Run a global KV manager for tests: it answers `/match_sort` with what simulated engines
    /// report as cached
    ///
    /// It asks the engines that a question names, and so is always right about them. Real engines
    /// are left out.
    #[command(after_help = "\
Examples:
  hermes kv-manager --listen 127.0.0.1:8080
  and in the pool: kvManager: {url: \"http://127.0.0.1:8080/match_sort\"}")]
    KvManager(KvManagerArgs),
    /// Send made-up requests to any OpenAI-compatible server, and report what a client sees
    ///
    /// Without --rate it keeps --connections requests in flight; with it, requests start at their
    /// times whatever the server does, and latency counts from those times. Users who chat
    /// (--workload conversation) wait for an answer before they go on; --rate is that of all of
    /// them.
    #[command(after_help = "\
Examples:
  hermes load --target http://127.0.0.1:8000 --model sim --connections 32 --duration 30
  hermes load --model sim --workload conversation --users 24 --rounds 8 --think 1
  hermes load --model sim --workload conversation --users 48 --rounds 10 --rate 5 --count 800 --pid 4711
  hermes load --model sim --rate 50 --poisson --json")]
    Load(LoadArgs),
    /// Replay a recorded trace against any OpenAI-compatible server, and report what a client sees
    ///
    /// The trace is that of `hermes simulate`. Prompts are made so that equal hash ids give equal
    /// text, so prefix caches hit as they did in production.
    ///
    /// With --policies nothing else is needed: simulated engines and both planes are started here,
    /// once for each strategy, time passes faster, and the report is that of `hermes simulate`.
    #[command(after_help = "\
Examples:
  hermes replay conversation_trace.jsonl --target http://127.0.0.1:8000 --model sim --limit 1000
  hermes replay conversation_trace.jsonl --model sim --scale 2 --shrink 8     twice as fast, an eighth as long
  hermes replay conversation_trace.jsonl --policies round-robin,least-request --limit 2000 --html report.html")]
    Replay(ReplayArgs),
    /// Simulate a fleet on a trace, or on chats, under several policies, and compare them
    ///
    /// A discrete-event model: no server runs, and an hour of traffic takes seconds. The servers
    /// are those of `hermes engine`: they batch in steps, cache prefixes, and admit what their
    /// memory holds. The rules of other routers are built in. The same arguments give the same
    /// figures.
    ///
    /// The trace has one JSON object a line with `timestamp` (ms), `input_length`, `output_length`
    /// and `hash_ids` (one for each block of the prompt; equal ids, equal prefixes), and, where
    /// they are known, `block_tokens` (512 if absent), `tenant` and `model`. With --rate there is
    /// no trace, but the chats of `hermes load --workload conversation`.
    #[command(after_help = "\
Examples:
  hermes simulate conversation_trace.jsonl
  hermes simulate --rate 5 --users 48 --rounds 10 --history-tokens 3000 --servers 4 --blocks 128
  hermes simulate conversation_trace.jsonl --scale 1.5 --policies round-robin,llm-d,omniscient --html report.html
  hermes simulate conversation_trace.jsonl --slow 0.5:0.4 --proxies 4 --json     half the servers at 0.4 speed

What is modelled and how to read the report: docs/simulate.md")]
    Simulate(SimulateArgs),
    /// Record what running proxies serve, as a trace for `hermes simulate` and `hermes replay`
    ///
    /// One JSON object a line for each request that arrives and finishes meanwhile, in the Mooncake
    /// format: sizes, times and hashes of prompt blocks, never text. Ctrl-C ends it. Proxies
    /// compute hashes for it even under strategies that do not need them.
    #[command(after_help = "\
Examples:
  hermes record --duration 10m --output trace.jsonl
  hermes record --admin http://10.0.0.5:8001 --admin http://10.0.0.6:8001 --output trace.jsonl
  hermes record | head -n 3")]
    Record(RecordArgs),
    /// Print tab completion for a shell
    #[command(after_help = "\
Examples:
  hermes completions bash > ~/.local/share/bash-completion/completions/hermes
  hermes completions zsh > \"${fpath[1]}/_hermes\"")]
    Completions(CompletionsArgs),
}

/// Parses, runs, and says how it went.
pub(crate) fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(failure) if failure.is_reader_gone() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hermes: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Check(args) => check::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Completions(args) => {
            completions::run(&args, &mut Cli::command()).map(|()| ExitCode::SUCCESS)
        }
        Command::Serve(args) => {
            within_runtime(async { serve::run(args).await.map(|()| ExitCode::SUCCESS) })
        }
        Command::Engine(args) => {
            within_runtime(async { engine::run(args).await.map(|()| ExitCode::SUCCESS) })
        }
        Command::KvManager(args) => {
            within_runtime(async { kv_manager::run(args).await.map(|()| ExitCode::SUCCESS) })
        }
        Command::Demo(args) => within_runtime(demo::run(args)),
        Command::Load(args) => within_runtime(load::run(args)),
        Command::Record(args) => within_runtime(record::run(args)),
        Command::Replay(args) => within_runtime(replay::run(args)),
    }
}

fn within_runtime(
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    // Two at least: the exporter of traces blocks one while it needs another.
    let threads = thread::available_parallelism()
        .map_or(2, NonZero::get)
        .max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    let runtime = runtime.map_err(Failure::Process)?;
    let outcome = runtime.block_on(command);
    // A blocking read of a file system that hangs must not hold the process.
    runtime.shutdown_timeout(SHUTDOWN_GRACE);
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Examples:\n  hermes"),
                "{}",
                command.get_name()
            );
        }
    }

    #[test]
    fn serving_needs_a_file_or_endpoints_and_not_both() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("hermes serve --config a.yaml").is_ok());
        assert!(parse("hermes serve --endpoint http://a:1 --endpoint http://b:1,http://c:1 --strategy random").is_ok());
        for wrong in [
            "hermes serve",
            "hermes serve --config a.yaml --endpoint http://a:1",
            "hermes serve --config a.yaml --strategy random",
            "hermes serve --endpoint http://a:1 --listen 8000",
            "hermes serve --endpoint http://a:1 --drain soon",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
