//! The command line of one simulated engine.

use std::net::SocketAddr;

use clap::Args;

use crate::config::EngineConfig;
use crate::kv_events::{Encoding, KvEventsConfig};
use crate::pair::PairArgs;

/// Run one simulated model server: real HTTP, vLLM's bytes, no GPU.
///
/// It answers like vLLM 0.32 (chat, completions, responses, messages, embeddings, rerank, score,
/// models, metrics), batches requests in steps, keeps a block cache with LRU eviction, and queues
/// what does not fit. Answers are deterministic words. Faults can be ordered while it runs: `curl
/// -d '{"kind":"status","code":503,"requests":3}' localhost:8100/sim/faults`.
#[derive(Clone, Debug, Args)]
pub struct EngineArgs {
    /// Where to listen; port 0 picks a free one.
    #[arg(
        long,
        env = "HERMES_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:8100"
    )]
    pub listen: SocketAddr,
    /// The name of the served model.
    #[arg(long, value_name = "NAME", default_value = "sim")]
    pub model: String,
    /// The release of vLLM that it claims to be. NIXL pairs engines of one release only.
    #[arg(long, value_name = "VERSION", default_value = "0.32.0")]
    pub engine_version: String,
    /// A LoRA adapter on that model; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub lora: Vec<String>,
    /// Data-parallel ranks behind the address, each with this speed and memory; not together with
    /// KV events.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        conflicts_with = "kv_events"
    )]
    pub data_parallel_size: u32,
    /// Tokens per KV block. vLLM's default is 16; larger blocks make large prompts cheaper to
    /// simulate.
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub block_size: usize,
    /// KV blocks in memory. Blocks times block size is what running requests and cached prefixes
    /// share.
    #[arg(long, value_name = "COUNT", default_value_t = 2000)]
    pub blocks: usize,
    /// Prompt tokens computed per second; an uncached prompt of that many tokens waits one second
    /// for its first token.
    #[arg(long, value_name = "TOKENS", default_value_t = 8000.0)]
    pub prefill_rate: f64,
    /// Most tokens computed in one step; smaller steps disturb running answers less.
    #[arg(long, value_name = "TOKENS", default_value_t = 8192)]
    pub step_budget: usize,
    /// Most requests that run at once; more wait in line.
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    pub max_running: usize,
    /// Let running requests share the engine's time instead of computing one prompt after the
    /// other: none waits for another one, and each takes FACTOR times as long while as many run as
    /// may. So does an engine with ranks or a router of its own behind one address.
    #[arg(long, value_name = "FACTOR")]
    pub shared_time: Option<f64>,
    /// Speed relative to the defaults: 0.4 is a slower GPU, 2 a faster one.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub speed: f64,
    /// Factor on all simulated time: 0.1 runs ten times faster than life, 0 answers at once.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub time_scale: f64,
    /// Most tokens of prompt and answer together.
    #[arg(long, value_name = "TOKENS", default_value_t = 131_072)]
    pub max_model_len: usize,
    /// Tokens in an answer whose request sets no limit.
    #[arg(long, value_name = "TOKENS", default_value_t = 16)]
    pub default_output: u32,
    /// Ask for this key on /v1, as `Authorization: Bearer KEY`.
    #[arg(
        long,
        env = "HERMES_ENGINE_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub api_key: Option<String>,
    /// Leave `prompt_tokens_details` (cached tokens) out of usage, as vLLM does by default.
    #[arg(long)]
    pub no_prompt_tokens_details: bool,
    /// Name KV usage and prefix counters as vLLM did before 0.10 (`gpu_cache_usage_perc`).
    #[arg(long)]
    pub legacy_metrics: bool,
    /// Publish KV events over ZeroMQ on this port of the same host; port 0 picks a free one.
    #[arg(long, value_name = "PORT", group = "kv_events")]
    pub kv_events_port: Option<u16>,
    /// Publish KV events to the subscriber that listens there, as vLLM does where its endpoint is
    /// no wildcard.
    #[arg(long, value_name = "HOST:PORT", group = "kv_events")]
    pub kv_events_connect: Option<String>,
    /// Replay KV events on this port; port 0 picks a free one.
    #[arg(long, value_name = "PORT", requires = "kv_events")]
    pub kv_events_replay_port: Option<u16>,
    /// The topic of the events, in which `{address}` is replaced by where the engine listens: llm-d's
    /// is `kv@{address}@MODEL`.
    #[arg(long, value_name = "TOPIC", default_value = "")]
    pub kv_events_topic: String,
    /// Write events as vLLM does since 0.24 (maps), or as before (arrays).
    #[arg(long, value_name = "FORM", default_value = "maps")]
    pub kv_events_encoding: Encoding,
    #[command(flatten)]
    pair: PairArgs,
}

impl EngineArgs {
    fn kv_events(&self) -> Option<KvEventsConfig> {
        let host = self.listen.ip();
        if self.kv_events_connect.is_none() && self.kv_events_port.is_none() {
            return None;
        }
        Some(KvEventsConfig {
            publish: SocketAddr::new(host, self.kv_events_port.unwrap_or(0)),
            connect: self.kv_events_connect.clone(),
            replay: self
                .kv_events_replay_port
                .map(|port| SocketAddr::new(host, port)),
            topic: self.kv_events_topic.clone(),
            encoding: self.kv_events_encoding,
            ..KvEventsConfig::default()
        })
    }
}

impl From<EngineArgs> for EngineConfig {
    fn from(args: EngineArgs) -> Self {
        let kv_events = args.kv_events();
        let EngineArgs {
            listen,
            model,
            engine_version,
            lora,
            data_parallel_size,
            block_size,
            blocks,
            prefill_rate,
            step_budget,
            max_running,
            ..
        } = args;
        let EngineArgs {
            shared_time,
            speed,
            time_scale,
            max_model_len,
            default_output,
            api_key,
            no_prompt_tokens_details,
            legacy_metrics,
            pair,
            ..
        } = args;
        Self {
            listen,
            version: engine_version,
            model,
            loras: lora,
            data_parallel: data_parallel_size,
            block_size,
            blocks,
            prefill_rate,
            step_budget,
            max_running,
            shared_time,
            speed,
            time_scale,
            max_model_len,
            default_output,
            api_key,
            prompt_tokens_details: !no_prompt_tokens_details,
            legacy_metrics,
            kv_events,
            pair: pair.config(),
            // Only code in the same process can read a journal.
            journal: 0,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        engine: EngineArgs,
    }

    #[test]
    fn the_defaults_of_the_command_line_are_those_of_the_library() {
        let Command { engine } = Command::try_parse_from(["engine"]).unwrap();
        let (from_args, default) = (EngineConfig::from(engine), EngineConfig::default());
        let machine = |config: &EngineConfig| {
            (
                config.limits().blocks,
                config.block_size,
                config.step_budget,
                config.max_running,
            )
        };
        assert_eq!(machine(&from_args), machine(&default));
        assert_eq!(
            (
                from_args.prefill_rate,
                from_args.speed,
                from_args.time_scale
            ),
            (default.prefill_rate, default.speed, default.time_scale)
        );
        assert_eq!(
            (from_args.max_model_len, from_args.default_output),
            (default.max_model_len, default.default_output)
        );
    }

    #[test]
    fn adapters_can_be_given_several_times() {
        let Command { engine } = Command::try_parse_from([
            "engine",
            "--lora",
            "a",
            "--lora",
            "b",
            "--listen",
            "127.0.0.1:0",
        ])
        .unwrap();
        assert_eq!(EngineConfig::from(engine).loras, ["a", "b"]);
    }

    #[test]
    fn a_publisher_listens_or_connects() {
        let parse = |flags: &[&str]| {
            let words = ["engine"].iter().chain(flags);
            Command::try_parse_from(words).map(|command| EngineConfig::from(command.engine))
        };
        let config = parse(&["--kv-events-connect", "epp:5557"]).unwrap();
        let events = config.kv_events.unwrap();
        assert_eq!(events.connect.as_deref(), Some("epp:5557"));
        let both = ["--kv-events-connect", "epp:5557", "--kv-events-port", "0"];
        assert!(parse(&both).is_err());
        assert!(parse(&["--kv-events-replay-port", "0"]).is_err());
    }
}
