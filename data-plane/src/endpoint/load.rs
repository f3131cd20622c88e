//! A [`Load`] that one task writes and every request reads, without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hermes_core::load::{EngineSample, Health, Load};

/// "Not known" for a count that travels as `u32`.
const ABSENT: u32 = u32::MAX;

/// The fields are written one by one, so a reader may see two updates mixed. A selection needs each
/// figure by itself only.
#[derive(Debug)]
pub(super) struct LoadCell {
    in_flight: AtomicU32,
    pending_tokens: AtomicU64,
    waiting: AtomicU32,
    running: AtomicU32,
    /// Bits of an `f32`; a NaN when not known.
    kv_usage: AtomicU32,
    /// Bits of an `f32`: 0 is down, 1 is up, between them is warming.
    share: AtomicU32,
}

impl Default for LoadCell {
    fn default() -> Self {
        let cell = Self {
            in_flight: AtomicU32::new(0),
            pending_tokens: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            running: AtomicU32::new(0),
            kv_usage: AtomicU32::new(0),
            share: AtomicU32::new(0),
        };
        cell.set(&Load::default());
        cell
    }
}

impl LoadCell {
    pub(super) fn set(&self, load: &Load) {
        let Load {
            in_flight,
            pending_tokens,
            sample,
            health,
        } = *load;
        let EngineSample {
            waiting,
            running,
            kv_usage,
        } = sample.unwrap_or(EngineSample {
            waiting: None,
            running: None,
            kv_usage: None,
        });
        let share = match health {
            Health::Up => 1.0,
            Health::Warming(share) => share.clamp(f32::MIN_POSITIVE, 1.0),
            Health::Down => 0.0_f32,
        };
        self.in_flight.store(in_flight, Ordering::Relaxed);
        self.pending_tokens.store(pending_tokens, Ordering::Relaxed);
        self.waiting
            .store(waiting.unwrap_or(ABSENT), Ordering::Relaxed);
        self.running
            .store(running.unwrap_or(ABSENT), Ordering::Relaxed);
        self.kv_usage
            .store(kv_usage.unwrap_or(f32::NAN).to_bits(), Ordering::Relaxed);
        self.share.store(share.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Load {
        let count =
            |cell: &AtomicU32| Some(cell.load(Ordering::Relaxed)).filter(|&count| count != ABSENT);
        let usage = f32::from_bits(self.kv_usage.load(Ordering::Relaxed));
        let sample = EngineSample {
            waiting: count(&self.waiting),
            running: count(&self.running),
            kv_usage: Some(usage).filter(|usage| !usage.is_nan()),
        };
        let known =
            sample.waiting.is_some() || sample.running.is_some() || sample.kv_usage.is_some();
        Load {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            pending_tokens: self.pending_tokens.load(Ordering::Relaxed),
            sample: known.then_some(sample),
            health: match f32::from_bits(self.share.load(Ordering::Relaxed)) {
                share if share >= 1.0 => Health::Up,
                share if share > 0.0 => Health::Warming(share),
                _ => Health::Down,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_set_is_what_is_read(
            in_flight: u32, pending_tokens: u64,
            waiting in proptest::option::of(0u32..1_000_000), running in proptest::option::of(0u32..1_000_000),
            kv_usage in proptest::option::of(0.0f32..=1.0), share in 0.01f32..0.99, state in 0..3,
        ) {
            let health = [Health::Up, Health::Down, Health::Warming(share)][state as usize];
            let sample = EngineSample { waiting, running, kv_usage };
            let known = waiting.is_some() || running.is_some() || kv_usage.is_some();
            let load = Load { in_flight, pending_tokens, sample: known.then_some(sample), health };
            let cell = LoadCell::default();
            cell.set(&load);
            prop_assert_eq!(cell.get(), load);
        }
    }
}
