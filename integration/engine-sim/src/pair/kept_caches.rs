//! KV caches that a prefill engine keeps for decode engines, each for the time of a lease.
//!
//! A cache is taken over once. One that was taken or whose lease is over is remembered, so that a
//! second use and a late one have names of their own. Time is an argument.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::violation::PairViolation;

/// Ended handoffs that are remembered; of older ones nothing is known any more.
const REMEMBERED: usize = 1 << 16;

/// Memory that is free again when this is dropped.
pub(crate) type HeldMemory = Box<dyn fmt::Debug + Send + Sync>;

/// A prompt that was computed, and the memory that its KV cache is in.
#[derive(Debug)]
pub(crate) struct ComputedPrompt {
    pub(crate) tokens: usize,
    pub(crate) memory: Vec<HeldMemory>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KeptCaches {
    kept: HashMap<String, KeptCache>,
    ended: HashMap<String, PairViolation>,
    /// The keys of `ended`, oldest first.
    order: VecDeque<String>,
    /// Handoffs so far, of which each has a number.
    number: u64,
    taken: u64,
    expired: u64,
}

#[derive(Debug)]
struct KeptCache {
    prompt: ComputedPrompt,
    until: Instant,
}

impl KeptCaches {
    /// Keeps a cache, and returns the name by which it can be taken, as vLLM 0.32 writes it.
    pub(super) fn keep(&mut self, prompt: ComputedPrompt, request: &str, until: Instant) -> String {
        let name = format!("cmpl-{request}-0-{:08x}", self.number);
        self.number += 1;
        self.kept.insert(name.clone(), KeptCache { prompt, until });
        name
    }

    /// Takes a cache over.
    ///
    /// # Errors
    /// Why there is none of this name.
    pub(super) fn take(
        &mut self,
        name: &str,
        now: Instant,
    ) -> Result<ComputedPrompt, PairViolation> {
        self.expire(now);
        let Some(cache) = self.kept.remove(name) else {
            let ending = self.ended.get(name).copied();
            return Err(ending.unwrap_or(PairViolation::UnknownHandoff));
        };
        self.taken += 1;
        self.end(name.to_owned(), PairViolation::UsedTwice);
        Ok(cache.prompt)
    }

    /// Frees what no engine has taken over in time.
    pub(super) fn expire(&mut self, now: Instant) {
        let late = self.kept.extract_if(|_, cache| cache.until <= now);
        for (name, _) in late.collect::<Vec<_>>() {
            self.expired += 1;
            self.end(name, PairViolation::AfterLease);
        }
    }

    /// How long the next lease lasts, if there is any.
    pub(super) fn next_expiry(&self, now: Instant) -> Option<Duration> {
        let next = self.kept.values().map(|cache| cache.until).min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Frees everything: the engine ended.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) const fn expired(&self) -> u64 {
        self.expired
    }

    fn end(&mut self, name: String, what_a_use_is: PairViolation) {
        self.order.push_back(name.clone());
        self.ended.insert(name, what_a_use_is);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn prompt(tokens: usize) -> ComputedPrompt {
        let memory = Vec::new();
        ComputedPrompt { tokens, memory }
    }

    #[tokio::test]
    async fn a_cache_is_taken_once_within_its_lease() {
        let (mut caches, now) = (KeptCaches::default(), Instant::now());
        let name = caches.keep(prompt(7), "a", now + LEASE);
        assert_eq!(caches.next_expiry(now), Some(LEASE));
        let taken = caches.take(&name, now).map(|prompt| prompt.tokens);
        assert_eq!(taken.ok(), Some(7));
        let again = caches.take(&name, now).map(|prompt| prompt.tokens);
        assert_eq!(again.err(), Some(PairViolation::UsedTwice));
        let unknown = caches.take("b", now).map(|prompt| prompt.tokens);
        assert_eq!(unknown.err(), Some(PairViolation::UnknownHandoff));
        assert_eq!((caches.kept(), caches.taken(), caches.expired()), (0, 1, 0));
    }

    #[tokio::test]
    async fn a_cache_is_free_after_its_lease_and_a_late_use_has_a_name_of_its_own() {
        let (mut caches, now) = (KeptCaches::default(), Instant::now());
        let name = caches.keep(prompt(7), "a", now + LEASE);
        caches.expire(now + LEASE / 2);
        assert_eq!(caches.kept(), 1);
        let late = caches.take(&name, now + LEASE).map(|prompt| prompt.tokens);
        assert_eq!(late.err(), Some(PairViolation::AfterLease));
        assert_eq!((caches.kept(), caches.taken(), caches.expired()), (0, 0, 1));
    }

    proptest! {
        #[test]
        fn every_cache_is_kept_taken_or_expired_and_taken_once_at_most(
            // A wait in seconds, and the number of the cache that is taken then, if there is one.
            steps in proptest::collection::vec((0u64..20, any::<bool>(), 0usize..12), 1..40),
        ) {
            let (mut caches, mut now) = (KeptCaches::default(), Instant::now());
            let mut names: Vec<(String, Instant, bool)> = Vec::new();
            for (wait, keeps, number) in steps {
                now += Duration::from_secs(wait);
                if keeps {
                    let until = now + LEASE;
                    names.push((caches.keep(prompt(1), "a", until), until, false));
                } else if let Some((name, until, is_taken)) = names.get_mut(number) {
                    let taken = caches.take(name, now).map(|prompt| prompt.tokens);
                    let expected = match (*is_taken, *until <= now) {
                        (true, _) => Err(PairViolation::UsedTwice),
                        (false, true) => Err(PairViolation::AfterLease),
                        (false, false) => Ok(1),
                    };
                    prop_assert_eq!(taken, expected);
                    *is_taken |= expected.is_ok();
                }
                let ended = caches.taken() + caches.expired();
                prop_assert_eq!(caches.kept() as u64 + ended, names.len() as u64);
            }
        }
    }
}
