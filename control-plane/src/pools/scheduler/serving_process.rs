//! Which process answers at an endpoint's address, as far as its metrics show it.
//!
//! A process that was replaced has another start time, or counters that went back. When that
//! happens in many scrapes, several engines answer at one address in turn, as behind a load
//! balancer: a prompt that was routed there is cached at one of them, and nothing says at which.

/// Start times that differ by less are one start: engines round them.
const SAME_START: f64 = 1.0;

/// Scrapes that are looked at for several engines, as bits of [`ServingProcess::replaced`], and how
/// many of them must have met another process. No engine restarts in every second scrape.
const RECENT: u64 = 0xff;
const MANY: u32 = 4;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServingProcess {
    /// Unix time at which it started, if it reports that.
    started: Option<f64>,
    /// Prompt tokens that it looked up in its cache since then, and found there.
    counters: Option<(f64, f64)>,
    /// A bit for each of the last 64 scrapes, the newest lowest: whether another process answered.
    replaced: u64,
    is_shared: bool,
}

/// What one scrape shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProcessChange {
    /// Another process answers than before, and will.
    pub(super) restarted: bool,
    /// Several engines answer at the address from now on, or no more.
    pub(super) shared: Option<bool>,
}

// === ServingProcess ===

impl ServingProcess {
    /// Takes in its start time and its counters, as far as a scrape has them.
    pub(super) fn observe(
        &mut self,
        started: Option<f64>,
        counters: Option<(f64, f64)>,
    ) -> ProcessChange {
        let moved = self
            .started
            .zip(started)
            .is_some_and(|(before, now)| (now - before).abs() > SAME_START);
        let went_back = self
            .counters
            .zip(counters)
            .is_some_and(|((queries, hits), (now, found))| now < queries || found < hits);
        self.started = started.or(self.started);
        self.counters = counters.or(self.counters);
        let is_replaced = moved || went_back;
        self.replaced = self.replaced << 1 | u64::from(is_replaced);
        let was_shared = self.is_shared;
        if (self.replaced & RECENT).count_ones() >= MANY {
            self.is_shared = true;
        } else if self.replaced == 0 {
            self.is_shared = false;
        }
        ProcessChange {
            restarted: is_replaced && !self.is_shared,
            shared: (self.is_shared != was_shared).then_some(self.is_shared),
        }
    }

    /// Whether several engines answer at the address.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(process: &mut ServingProcess, started: f64) -> ProcessChange {
        process.observe(Some(started), None)
    }

    #[test]
    fn engines_that_answer_in_turn_at_one_address_are_no_restarts() {
        let mut process = ServingProcess::default();
        let changes: Vec<_> = (0..20)
            .map(|scrape| observe(&mut process, 1e9 + 100.0 * f64::from(scrape % 2)))
            .collect();
        let shared = changes
            .iter()
            .position(|change| change.shared == Some(true));
        assert_eq!(shared, Some(4));
        assert!(changes[4..].iter().all(|change| !change.restarted));

        // One of them is taken away.
        let alone: Vec<_> = (0..65).map(|_| observe(&mut process, 1e9)).collect();
        let ended = alone.iter().filter(|change| change.shared == Some(false));
        assert_eq!(ended.count(), 1);
        assert!(observe(&mut process, 2e9).restarted);
    }

    #[test]
    fn counters_show_them_where_start_times_are_not_reported() {
        let mut process = ServingProcess::default();
        let (mut few, mut many) = (0.0, 10_000.0);
        for scrape in 0..20 {
            let counter = if scrape % 2 == 0 { &mut few } else { &mut many };
            *counter += 100.0;
            process.observe(None, Some((*counter, 0.0)));
        }
        assert!(process.is_shared());
    }

    #[test]
    fn an_engine_that_restarts_now_and_then_is_one() {
        let mut process = ServingProcess::default();
        let mut restarts = 0;
        for scrape in 0..100 {
            let change = observe(&mut process, 1e9 + 60.0 * f64::from(scrape / 5));
            restarts += u32::from(change.restarted);
            assert_eq!(change.shared, None);
        }
        assert_eq!(restarts, 19);
    }
}
