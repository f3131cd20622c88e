//! `hermes`: the whole router on one machine, and everything to try it with.
//!
//! | command | file | what it does |
//! |---|---|---|
//! | `serve` | [`serve`] | both planes in this process, in front of model servers that run elsewhere |
//! | `demo` | [`demo`] | both planes, simulated engines and load: a comparison of strategies in a minute |
//! | `engine` | [`engine`] | one simulated model server |
//! | `load`, `replay` | [`load`], [`replay`] | requests on any OpenAI-compatible server, made up or from a trace |
//! | `simulate` | [`simulate`] | what policies would do to a trace, in a model of a fleet |
//! | `record` | [`record`] | what running proxies serve, as a trace |
//! | `check` | [`check`] | whether a configuration file is right |
//! | `completions` | [`completions`] | tab completion for a shell |
//!
//! It routes nothing by itself: the planes are those of the two server binaries, and talk over the
//! same gRPC.

mod check;
mod cli;
mod completions;
mod demo;
mod engine;
mod failure;
mod kv_manager;
mod load;
mod output;
mod planes;
mod process;
mod record;
mod replay;
mod serve;
mod simulate;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
