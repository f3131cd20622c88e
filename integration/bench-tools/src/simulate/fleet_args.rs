//! The servers of a simulation or a replay, as a command line.

use std::time::Duration;

use clap::Args;

use super::settings::{Settings, Slow};
use crate::load::positive;
use crate::report::grouped;
use hermes_engine_sim::EngineConfig;

/// The servers; the defaults are those of `hermes engine`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Servers")]
pub struct FleetArgs {
    /// How many servers
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count)]
    pub servers: usize,
    /// The last SHARE of the servers run at FACTOR speed, such as 0.5:0.4
    #[arg(long, value_name = "SHARE:FACTOR", value_parser = slow)]
    pub slow: Option<Slow>,
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
    /// Running requests share a server's time, and take up to this many times as long
    #[arg(long, value_name = "FACTOR")]
    pub shared_time: Option<f64>,
    /// KV blocks in a server's memory
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = count)]
    pub blocks: usize,
    /// Tokens in one of those blocks; sets the memory only, as caches go by the blocks of the trace
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = count)]
    pub block_size: usize,
}

impl FleetArgs {
    /// What is to be simulated with these servers.
    #[must_use]
    pub fn settings(&self, scale: f64, seed: u64) -> Settings {
        let Self {
            servers,
            slow,
            prefill_rate,
            step,
            step_per_decode,
            ..
        } = *self;
        let Self {
            step_budget,
            max_running,
            shared_time,
            blocks,
            block_size,
            ..
        } = *self;
        let milliseconds = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or(Duration::MAX);
        let engine = EngineConfig {
            prefill_rate,
            step_base: milliseconds(step),
            step_per_decode: milliseconds(step_per_decode),
            step_budget,
            max_running,
            shared_time,
            blocks,
            block_size,
            // The trace sets the lengths; what exceeds the memory is clipped.
            max_model_len: usize::MAX,
            ..EngineConfig::default()
        };
        Settings {
            servers,
            engine,
            slow,
            scale,
            seed,
        }
    }

    /// The servers in words, for a report.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let Self {
            servers,
            slow,
            prefill_rate,
            blocks,
            block_size,
            ..
        } = *self;
        let servers = match slow {
            None => servers.to_string(),
            Some(Slow { share, factor }) => {
                format!("{servers} ({:.0} % at {factor} speed)", share * 100.0)
            }
        };
        let memory = format!("{} tokens each", grouped(blocks.saturating_mul(block_size)));
        let mut facts = vec![
            ("servers", servers),
            ("prefill", format!("{prefill_rate} tokens/s")),
            ("memory", memory),
        ];
        let shared = |slowest| ("shared time", format!("up to {slowest} times as long"));
        facts.extend(self.shared_time.map(shared));
        facts
    }
}

/// Reads a number above zero.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

fn slow(text: &str) -> Result<Slow, String> {
    let parse = || {
        let (share, factor) = text.split_once(':')?;
        let (share, factor) = (share.parse().ok()?, factor.parse().ok()?);
        ((0.0..=1.0).contains(&share) && (1e-3..=1e3).contains(&factor))
            .then_some(Slow { share, factor })
    };
    parse().ok_or_else(|| {
        "expected SHARE:FACTOR, such as 0.5:0.4, with a share from 0 to 1".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        fleet: FleetArgs,
    }

    #[test]
    fn the_defaults_are_those_of_an_engine() {
        let settings = Command::parse_from(["simulate"]).fleet.settings(1.0, 7);
        let (given, default) = (settings.engine, EngineConfig::default());
        assert_eq!(settings.servers, Settings::default().servers);
        assert_eq!(
            (
                given.prefill_rate,
                given.step_base,
                given.step_per_decode,
                given.step_budget
            ),
            (
                default.prefill_rate,
                default.step_base,
                default.step_per_decode,
                default.step_budget
            )
        );
        assert_eq!(
            (given.max_running, given.blocks, given.block_size),
            (default.max_running, default.blocks, default.block_size)
        );
    }

    #[test]
    fn a_share_of_slow_servers_is_read_or_refused() {
        assert_eq!(
            slow("0.5:0.4"),
            Ok(Slow {
                share: 0.5,
                factor: 0.4
            })
        );
        for wrong in ["", "0.5", "2:0.4", "0.5:0", "a:b", "0.5:NaN"] {
            assert!(slow(wrong).is_err(), "{wrong}");
        }
    }
}
