//! What a request costs on each endpoint, and where it costs least: the rules of `kv-aware`, as arithmetic.
//!
//! ```text
//!   finish(k) = ahead(k) + base(k) + uncached(k) / rate(k)        when its first token would come out
//!   waste(k)  = (uncached(k) − least uncached) / mean rate        prefill that another endpoint would be spared
//!   cost(k)   = finish(k) + γ · waste(k)
//! ```
//!
//! The endpoint with the least cost is the request's. So an endpoint without the prompt's cache gets it only if it is
//! done sooner by γ times the work that this wastes ([`KvAware::gamma`](crate::policy::KvAware::gamma)), and a slow
//! endpoint is left alone while a fast one will be done sooner. Waste is valued at the mean rate of all: a second of a
//! slow endpoint is worth less than one of a fast one. Among equals the one wins with fewer requests in flight, as each
//! decoding request slows the next prefill down a little, and with less prefill lately, as its cache has the oldest
//! content to lose.

use smallvec::SmallVec;

/// Seconds that one more request in flight is worth: only decides between equals.
const PER_REQUEST: f64 = 1e-3;
/// Seconds that a second of recent prefill is worth: likewise.
const PER_SECOND: f64 = 1e-3;

/// One endpoint, as a choice sees it at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Site {
    /// Position in the pool.
    pub(super) position: u32,
    /// Requests in flight there.
    pub(super) in_flight: u32,
    /// Seconds of prefill that it was given lately.
    pub(super) lately: f64,
    /// Seconds until a prompt that is sent now begins, those included who wait for it and go before.
    pub(super) ahead: f64,
    /// Seconds that any prompt takes.
    pub(super) base: f64,
    /// Seconds per uncached token.
    pub(super) per_token: f64,
}

/// The endpoints that a request may go to, in ascending order of position.
#[derive(Clone, Debug, Default)]
pub(super) struct Sites {
    pub(super) sites: Vec<Site>,
    /// Seconds per token at the mean rate.
    mean_per_token: f64,
}

/// Where how much of a prompt is cached: positions in ascending order, and tokens.
pub(super) type Hits = SmallVec<[(u32, u32); 8]>;

/// A prompt, as costs see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prompt<'a> {
    pub(super) tokens: u32,
    pub(super) hits: &'a Hits,
}

/// What a request costs on one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// Index among the sites.
    pub(super) site: usize,
    /// What endpoints are compared by, in seconds.
    pub(super) total: f64,
    /// Seconds until its first token.
    pub(super) finish: f64,
    /// Seconds of prefill, at the mean rate, that another endpoint would be spared.
    pub(super) waste: f64,
    /// Prompt tokens cached there.
    pub(super) cached: u32,
}

// === Sites ===

impl Sites {
    pub(super) fn new(sites: Vec<Site>) -> Self {
        let rates: f64 = sites.iter().map(|site| 1.0 / site.per_token).sum();
        let mean_per_token = if rates > 0.0 { sites.len() as f64 / rates } else { 0.0 };
        Self { sites, mean_per_token }
    }

    pub(super) fn len(&self) -> usize {
        self.sites.len()
    }

    /// Where the request costs least; `None` of no sites.
    pub(super) fn cheapest(&self, prompt: Prompt<'_>, gamma: f64) -> Option<Cost> {
        let mut best: Option<Cost> = None;
        self.for_each(prompt, gamma, |cost| {
            if best.is_none_or(|best| cost.total < best.total) {
                best = Some(cost);
            }
        });
        best
    }

    /// The cost at every site, in their order.
    pub(super) fn for_each(&self, prompt: Prompt<'_>, gamma: f64, mut each: impl FnMut(Cost)) {
        let most = self.most_cached(prompt.hits);
        let mut hits = prompt.hits.iter().copied().peekable();
        for (site, &Site { position, in_flight, lately, ahead, base, per_token }) in self.sites.iter().enumerate() {
            while hits.next_if(|(hit, _)| *hit < position).is_some() {}
            let cached = hits.peek().filter(|(hit, _)| *hit == position).map_or(0, |(_, cached)| *cached);
            let finish = ahead + base + f64::from(prompt.tokens.saturating_sub(cached)) * per_token;
            let waste = f64::from(most.saturating_sub(cached)) * self.mean_per_token;
            let total = finish + gamma * waste + PER_REQUEST * f64::from(in_flight) + PER_SECOND * lately;
            each(Cost { site, total, finish, waste, cached });
        }
    }

    /// The longest hit at any of the sites.
    fn most_cached(&self, hits: &Hits) -> u32 {
        let mut sites = self.sites.iter().map(|site| site.position).peekable();
        let mut is_site = |position: u32| {
            while sites.next_if(|site| *site < position).is_some() {}
            sites.peek() == Some(&position)
        };
        hits.iter().filter(|(position, _)| is_site(*position)).map(|(_, cached)| *cached).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints of 8,000 tokens a second with so many seconds of work ahead.
    fn sites(ahead: &[f64]) -> Sites {
        let site = |(position, &ahead): (usize, &f64)| Site {
            position: position as u32,
            ahead,
            per_token: 1.0 / 8_000.0,
            ..Site::default()
        };
        Sites::new(ahead.iter().enumerate().map(site).collect())
    }

    fn cheapest(sites: &Sites, tokens: u32, hits: &[(u32, u32)], gamma: f64) -> usize {
        sites.cheapest(Prompt { tokens, hits: &hits.into() }, gamma).expect("there are sites").site
    }

    #[test]
    fn a_cache_is_worth_waiting_for_as_long_as_others_pay_for_its_loss() {
        // A second of prefill is cached at the first endpoint, which has two seconds of work ahead.
        let sites = sites(&[2.0, 0.0]);
        assert_eq!(cheapest(&sites, 9_000, &[(0, 8_000)], 0.5), 1, "done half a second sooner");
        assert_eq!(cheapest(&sites, 9_000, &[(0, 8_000)], 1.5), 0, "but others would lose more than that");
        assert_eq!(cheapest(&sites, 9_000, &[(0, 8_000), (7, 9_000)], 0.5), 1, "hits elsewhere do not count");
    }

    #[test]
    fn a_slow_endpoint_is_left_alone_while_a_fast_one_will_be_done_sooner() {
        let mut sites = sites(&[1.0, 0.0]);
        sites.sites[1].per_token *= 2.5;
        assert_eq!(cheapest(&sites, 8_000, &[], 3.0), 0);
        assert_eq!(cheapest(&sites, 2_000, &[], 3.0), 1);
    }

    #[test]
    fn among_equals_the_one_with_fewer_requests_wins() {
        let mut sites = sites(&[0.0, 0.0, 0.0]);
        (sites.sites[0].in_flight, sites.sites[1].in_flight, sites.sites[2].in_flight) = (3, 1, 2);
        assert_eq!(cheapest(&sites, 100, &[], 1.0), 1);
        assert_eq!(Sites::default().cheapest(Prompt { tokens: 1, hits: &Hits::new() }, 1.0), None);
    }
}
