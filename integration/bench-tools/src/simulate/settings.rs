//! What is simulated: how many servers, how fast, and how fast the trace comes in.

use hermes_engine_sim::EngineConfig;

use super::roles::FleetRoles;
use super::transfers::TransferSpeed;
use crate::report::Objectives;

/// A fleet and the time scale of its traffic.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many servers of each role; at least one.
    pub roles: FleetRoles,
    /// What one server is; the fields about HTTP do not matter here.
    pub engine: EngineConfig,
    /// Some servers run slower.
    pub slow: Option<Slow>,
    /// Arrivals come this many times as fast as in the trace; above zero.
    pub scale: f64,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// How fast KV caches move between servers.
    pub transfer: TransferSpeed,
    /// What a request has to meet to count as good.
    pub objectives: Objectives,
}

/// The last servers of a fleet run at another speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slow {
    /// Which part of the servers, `0.0..=1.0`, rounded to whole servers.
    pub share: f64,
    /// Their speed relative to the others; above zero.
    pub factor: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roles: FleetRoles::aggregated(8),
            engine: EngineConfig::default(),
            slow: None,
            scale: 1.0,
            seed: 7,
            transfer: TransferSpeed::default(),
            objectives: Objectives::default(),
        }
    }
}

impl Settings {
    /// The configuration of each server for traffic in blocks of `block_tokens`: the memory stays
    /// the same in tokens.
    #[must_use]
    pub fn engines(&self, block_tokens: usize) -> Vec<EngineConfig> {
        let Slow { share, factor } = self.slow.unwrap_or(Slow {
            share: 0.0,
            factor: 1.0,
        });
        let servers = self.roles.servers();
        let slow = (servers as f64 * share).round() as usize;
        let engine = |server| {
            let mut engine = self.engine.clone();
            engine.blocks = self.blocks(block_tokens);
            engine.block_size = block_tokens;
            if server + slow >= servers {
                engine.speed *= factor;
            }
            engine
        };
        (0..servers).map(engine).collect()
    }

    /// Memory of one server in blocks of `block_tokens`.
    #[must_use]
    pub fn blocks(&self, block_tokens: usize) -> usize {
        (self.engine.blocks.saturating_mul(self.engine.block_size) / block_tokens).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_servers_are_the_slow_ones() {
        let settings = Settings {
            roles: FleetRoles::aggregated(5),
            slow: Some(Slow {
                share: 0.4,
                factor: 0.5,
            }),
            ..Settings::default()
        };
        let speeds: Vec<f64> = settings
            .engines(512)
            .iter()
            .map(|engine| engine.speed)
            .collect();
        assert_eq!(speeds, [1.0, 1.0, 1.0, 0.5, 0.5]);
    }

    #[test]
    fn memory_is_the_same_whatever_the_blocks_of_the_trace() {
        let engine = Settings::default().engines(64).remove(0);
        assert_eq!((engine.blocks, engine.block_size), (16_000, 64));
    }
}
