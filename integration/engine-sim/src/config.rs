//! What a simulated engine is: its model, its speed, its memory, its manners on the wire.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::kv_events::KvEventsConfig;
use crate::model::scheduler::{Limits, Scheduler, Step};
use crate::pair::PairConfig;

/// The configuration of one engine. The defaults resemble one mid-size model on one data-center
/// GPU.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The release of vLLM that it claims to be.
    pub version: String,
    /// The name of the base model, which is also the label `model_name` of the metrics.
    pub model: String,
    /// Names of LoRA adapters on the base model.
    pub loras: Vec<String>,
    /// Data-parallel ranks: independent engines of these speeds and this memory behind one address.
    pub data_parallel: u32,
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks in memory.
    pub blocks: usize,
    /// Prompt tokens computed per second.
    pub prefill_rate: f64,
    /// The fixed part of a step's duration.
    pub step_base: Duration,
    /// What each decoding request adds to a step's duration.
    pub step_per_decode: Duration,
    /// Most tokens computed in one step.
    pub step_budget: usize,
    /// Most requests in one step; more wait.
    pub max_running: usize,
    /// Whether running requests share the engine's time instead of being computed one prompt after
    /// the other: none waits for another one, and each takes this many times as long while
    /// `max_running` run; in between in proportion. At least 1.
    pub shared_time: Option<f64>,
    /// Speed relative to the rates above; 0.4 is a slower GPU.
    pub speed: f64,
    /// Factor on all simulated durations: 0.1 runs ten times faster than life, 0 answers at once.
    pub time_scale: f64,
    /// Most tokens of prompt and answer together; also bounded by the size of the cache.
    pub max_model_len: usize,
    /// Tokens after which the model ends by itself when a request sets no limit.
    pub default_output: u32,
    /// How long an idle connection stays open after a response (uvicorn as vLLM runs it: 5 s).
    pub keep_alive: Duration,
    /// When set, `/v1` wants `Authorization: Bearer` with this key.
    pub api_key: Option<String>,
    /// Whether usage says how many prompt tokens came from the cache
    /// (`--enable-prompt-tokens-details`).
    pub prompt_tokens_details: bool,
    /// Expose KV usage and prefix counters under their names before vLLM 0.10
    /// (`gpu_cache_usage_perc`, …).
    pub legacy_metrics: bool,
    /// Its part in prefill/decode pairs, if it has one.
    pub pair: Option<PairConfig>,
    /// How it publishes KV events, if at all.
    pub kv_events: Option<KvEventsConfig>,
    /// How many requests the journal remembers; 0 turns it off.
    pub journal: usize,
    /// Largest request body in bytes. vLLM has no limit; this one only protects the simulator.
    pub max_body: usize,
    /// How long `stop` waits for open requests before it cuts them off.
    pub grace: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            version: "0.32.0".to_owned(),
            model: "sim".to_owned(),
            loras: Vec::new(),
            data_parallel: 1,
            block_size: 512,
            blocks: 2000,
            prefill_rate: 8000.0,
            step_base: Duration::from_millis(8),
            step_per_decode: Duration::from_micros(200),
            step_budget: 8192,
            max_running: 256,
            shared_time: None,
            speed: 1.0,
            time_scale: 1.0,
            max_model_len: 131_072,
            default_output: 16,
            keep_alive: Duration::from_secs(5),
            api_key: None,
            prompt_tokens_details: true,
            legacy_metrics: false,
            pair: None,
            kv_events: None,
            journal: 1024,
            max_body: 256 << 20,
            grace: Duration::from_secs(5),
        }
    }
}

impl EngineConfig {
    /// Checks that the numbers describe a machine.
    ///
    /// # Errors
    /// `InvalidInput` naming the first setting that does not.
    pub fn check(&self) -> io::Result<()> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            (!self.model.is_empty(), "model must not be empty"),
            (!self.version.is_empty(), "version must not be empty"),
            (
                (1..=64).contains(&self.data_parallel),
                "there must be 1 to 64 data-parallel ranks",
            ),
            (
                self.data_parallel == 1 || self.kv_events.is_none(),
                "KV events are published by an engine of one data-parallel rank only",
            ),
            (self.block_size > 0, "block size must be at least 1 token"),
            (self.blocks > 0, "there must be at least 1 block"),
            (positive(self.prefill_rate), "prefill rate must be above 0"),
            (positive(self.speed), "speed must be above 0"),
            (
                self.shared_time
                    .is_none_or(|slowest| slowest.is_finite() && slowest >= 1.0),
                "requests that share an engine's time take at least 1 times as long",
            ),
            (
                self.time_scale.is_finite() && self.time_scale >= 0.0,
                "time scale must be 0 or more",
            ),
            (self.step_budget > 0, "step budget must be at least 1 token"),
            (
                self.max_running > 0,
                "at least 1 request must be able to run",
            ),
            (
                self.max_model_len > 1,
                "the context must hold at least 2 tokens",
            ),
            (
                self.default_output > 0,
                "default output must be at least 1 token",
            ),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err(io::Error::new(io::ErrorKind::InvalidInput, *message)),
            None => self.pair.as_ref().map_or(Ok(()), PairConfig::check),
        }
    }

    /// The context length that the memory allows.
    pub(crate) fn context(&self) -> usize {
        self.max_model_len
            .min(self.blocks.saturating_mul(self.block_size))
    }

    /// What the scheduler may hold and compute.
    pub fn limits(&self) -> Limits {
        Limits {
            blocks: self.blocks,
            block_size: self.block_size,
            step_budget: self.step_budget,
            max_running: self.max_running,
            max_model_len: self.context(),
        }
    }

    /// How long this step takes on the wall clock with `running` requests in it, slowed down by
    /// `slow` (1 is as configured).
    pub fn duration(&self, step: Step, running: usize, slow: f64) -> Duration {
        let Step {
            prefill_tokens,
            decodes,
        } = step;
        let base = self.step_base.as_secs_f64();
        let seconds = match self.shared_time {
            Some(slowest) => base * self.slowdown(slowest, running),
            None => {
                base + self.step_per_decode.as_secs_f64() * decodes as f64
                    + prefill_tokens as f64 / self.prefill_rate
            }
        };
        Duration::try_from_secs_f64(seconds * slow * self.time_scale / self.speed)
            .unwrap_or(Duration::MAX)
    }

    /// A scheduler of this engine, without any request.
    pub fn scheduler(&self) -> Scheduler {
        let scheduler = Scheduler::new(self.limits());
        match self.shared_time {
            Some(_) => scheduler.sharing_time(self.shared_step()),
            None => scheduler,
        }
    }

    /// Time to the first token of a prompt of which this number of tokens is not cached, on the
    /// idle engine.
    pub fn time_alone(&self, tokens: usize) -> Duration {
        let most = match self.shared_time {
            Some(_) => self.shared_step(),
            None => self.step_budget,
        };
        let step = |prefill_tokens| {
            let step = Step {
                prefill_tokens,
                ..Step::default()
            };
            self.duration(step, 1, 1.0)
        };
        let full = u32::try_from(tokens / most).unwrap_or(u32::MAX);
        let last = match tokens % most {
            0 => Duration::ZERO,
            rest => step(rest),
        };
        step(most).saturating_mul(full).saturating_add(last)
    }

    /// Tokens of each prompt in one step, where requests share the engine's time.
    fn shared_step(&self) -> usize {
        ((self.prefill_rate * self.step_base.as_secs_f64()) as usize).max(1)
    }

    /// How many times as long everything takes while `running` requests share the engine's time.
    fn slowdown(&self, slowest: f64, running: usize) -> f64 {
        if self.max_running < 2 {
            return 1.0;
        }
        let share = running.saturating_sub(1) as f64 / (self.max_running - 1) as f64;
        1.0 + (slowest - 1.0) * share
    }

    /// Whether answers take no time at all.
    pub(crate) fn is_instant(&self) -> bool {
        self.time_scale == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_costs_its_base_its_decodes_and_its_prompt_tokens() {
        let config = EngineConfig::default();
        assert_eq!(
            config.duration(
                Step {
                    prefill_tokens: 800,
                    decodes: 10
                },
                10,
                1.0
            ),
            Duration::from_millis(110)
        );
        let slow = EngineConfig {
            speed: 0.5,
            time_scale: 0.1,
            ..config
        };
        assert_eq!(
            slow.duration(
                Step {
                    prefill_tokens: 0,
                    decodes: 10
                },
                10,
                2.0
            ),
            Duration::from_millis(4)
        );
    }

    #[test]
    fn a_step_of_requests_that_share_the_time_depends_on_their_number_alone() {
        let config = EngineConfig {
            shared_time: Some(3.0),
            max_running: 5,
            ..EngineConfig::default()
        };
        let step = |running| {
            let step = Step {
                prefill_tokens: 64 * running,
                decodes: 0,
            };
            config.duration(step, running, 1.0)
        };
        let ms = Duration::from_millis;
        assert_eq!([1, 3, 5].map(step), [8, 16, 24].map(ms));
        let impossible = EngineConfig {
            shared_time: Some(0.5),
            ..config
        };
        assert!(impossible.check().is_err());
    }

    #[test]
    fn a_prompt_alone_takes_its_steps() {
        let serial = EngineConfig::default();
        let ms = Duration::from_millis;
        assert_eq!(serial.time_alone(4_000), ms(508));
        assert_eq!(serial.time_alone(8_192 + 80), ms(1_024 + 10 + 2 * 8));
        let shared = EngineConfig {
            shared_time: Some(3.0),
            ..serial
        };
        assert_eq!(shared.time_alone(4_000), ms(504), "63 steps of 64 tokens");
    }

    #[test]
    fn a_machine_without_memory_is_refused() {
        assert!(EngineConfig::default().check().is_ok());
        let error = EngineConfig {
            blocks: 0,
            ..EngineConfig::default()
        }
        .check()
        .expect_err("no blocks");
        assert_eq!(error.to_string(), "there must be at least 1 block");
    }

    #[test]
    fn the_context_is_bounded_by_the_memory() {
        assert_eq!(
            EngineConfig {
                blocks: 2,
                block_size: 16,
                ..EngineConfig::default()
            }
            .context(),
            32
        );
    }
}
