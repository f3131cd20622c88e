//! The servers of a simulation or a replay, as a command line.

use std::time::Duration;

use clap::Args;

use super::roles::FleetRoles;
use super::settings::{Settings, Slow};
use super::transfers::TransferSpeed;
use crate::load::positive;
use crate::report::grouped;
use hermes_engine_sim::EngineConfig;

/// The servers; the defaults are those of `hermes engine`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Servers")]
pub struct FleetArgs {
    /// How many servers that serve whole requests; 8 if not given, and none if there are pairs
    #[arg(long, value_name = "N", value_parser = count)]
    pub servers: Option<usize>,
    /// Those servers may also be either half of a pair, under kv-aware
    #[arg(long)]
    pub does_both: bool,
    /// How many servers that compute prompts for others
    #[arg(long, value_name = "N", value_parser = count, requires = "decode")]
    pub prefill: Option<usize>,
    /// How many servers that generate from prompts of others, or serve whole requests
    #[arg(long, value_name = "N", value_parser = count, requires = "prefill")]
    pub decode: Option<usize>,
    /// Tokens of a KV cache that move from one server to another in a second
    #[arg(long, value_name = "TOKENS", default_value_t = TransferSpeed::default().rate, value_parser = positive)]
    pub transfer_rate: f64,
    /// What each transfer takes besides, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = TransferSpeed::default().base.as_secs_f64() * 1e3, value_parser = positive)]
    pub transfer_base: f64,
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
            slow,
            prefill_rate,
            step,
            step_per_decode,
            ..
        } = *self;
        let Self {
            transfer_rate,
            transfer_base,
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
            roles: self.roles(),
            engine,
            slow,
            scale,
            seed,
            transfer: TransferSpeed {
                base: milliseconds(transfer_base),
                rate: transfer_rate,
            },
            ..Settings::default()
        }
    }

    /// How many servers there are of each role.
    #[must_use]
    pub fn roles(&self) -> FleetRoles {
        let Self {
            servers,
            does_both,
            prefill,
            decode,
            ..
        } = *self;
        let (prefill, decode) = (prefill.unwrap_or(0), decode.unwrap_or(0));
        FleetRoles {
            aggregated: servers.unwrap_or(if prefill > 0 { 0 } else { 8 }),
            does_both,
            prefill,
            decode,
        }
    }

    /// The servers in words, for a report.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let Self {
            slow,
            prefill_rate,
            blocks,
            block_size,
            ..
        } = *self;
        let roles = self.roles();
        let servers = match slow {
            None => roles.to_string(),
            Some(Slow { share, factor }) => {
                format!("{roles} ({:.0} % at {factor} speed)", share * 100.0)
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
        if roles.may_split() {
            facts.push(self.transfer_fact());
        }
        facts
    }

    /// How KV caches move, in words.
    pub(super) fn transfer_fact(&self) -> (&'static str, String) {
        let Self {
            transfer_rate,
            transfer_base,
            ..
        } = self;
        let text = format!("{transfer_rate} tokens/s and {transfer_base} ms");
        ("transfer", text)
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
        assert_eq!(settings.roles, Settings::default().roles);
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
    fn pairs_come_instead_of_aggregated_servers_or_beside_them() {
        let roles = |line: &str| {
            let args = Command::try_parse_from(line.split_whitespace());
            args.map(|command| command.fleet.roles().to_string()).ok()
        };
        let known = |roles: &str| Some(roles.to_owned());
        assert_eq!(roles("simulate"), known("8"));
        assert_eq!(roles("simulate --prefill 5 --decode 3"), known("5:3"));
        let mixed = roles("simulate --servers 2 --prefill 1 --decode 3");
        assert_eq!(mixed, known("2+1:3"));
        assert_eq!(roles("simulate --prefill 5"), None);
        assert_eq!(roles("simulate --decode 5"), None);
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
