//! Which proxies are subscribed, and which have been gone for long enough to forget what they had
//! open.
//!
//! A proxy that reconnects within [`GRACE`] keeps its bookings: a broken stream is not a dead
//! proxy.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hermes_core::ledger::ProxyId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a proxy without a stream is waited for.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// The proxies of this replica. Clones share them. Bounded by those that were connected within
/// [`GRACE`].
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectedProxies(Arc<Mutex<HashMap<ProxyId, ProxyPresence>>>);

/// One stream of one proxy, until it is dropped.
#[derive(Debug)]
#[must_use = "a proxy is present only while this is held"]
pub(crate) struct ProxyConnection {
    proxies: ConnectedProxies,
    proxy: ProxyId,
}

#[derive(Debug)]
struct ProxyPresence {
    streams: usize,
    /// When the last stream ended.
    left: Instant,
}

// === ConnectedProxies ===

impl ConnectedProxies {
    /// A stream of `proxy` begins.
    pub(crate) fn enter(&self, proxy: ProxyId) -> ProxyConnection {
        let mut proxies = self.0.lock();
        proxies
            .entry(proxy)
            .or_insert_with(|| ProxyPresence {
                streams: 0,
                left: Instant::now(),
            })
            .streams += 1;
        ProxyConnection {
            proxies: self.clone(),
            proxy,
        }
    }

    /// Those that left for good since this was asked last.
    pub(crate) fn departed(&self) -> Vec<ProxyId> {
        let now = Instant::now();
        let gone = |_: &ProxyId, presence: &mut ProxyPresence| {
            presence.streams == 0 && now.duration_since(presence.left) >= GRACE
        };
        self.0
            .lock()
            .extract_if(gone)
            .map(|(proxy, _)| proxy)
            .collect()
    }
}

// === ProxyConnection ===

impl Drop for ProxyConnection {
    fn drop(&mut self) {
        if let Some(presence) = self.proxies.0.lock().get_mut(&self.proxy) {
            presence.streams -= 1;
            presence.left = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    const PROXY: ProxyId = ProxyId(7);

    #[tokio::test(start_paused = true)]
    async fn a_proxy_departs_when_its_grace_is_over() {
        let proxies = ConnectedProxies::default();
        drop(proxies.enter(PROXY));
        time::advance(GRACE - Duration::from_millis(1)).await;
        assert_eq!(proxies.departed(), []);
        time::advance(Duration::from_millis(1)).await;
        assert_eq!(proxies.departed(), [PROXY]);
        assert_eq!(proxies.departed(), [], "once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_reconnects_in_time_never_departs() {
        let proxies = ConnectedProxies::default();
        let first = proxies.enter(PROXY);
        let second = proxies.enter(PROXY);
        drop(first);
        time::advance(GRACE * 2).await;
        assert_eq!(
            proxies.departed(),
            [],
            "the new stream was open before the old one ended"
        );
        drop(second);
        time::advance(GRACE / 2).await;
        let third = proxies.enter(PROXY);
        time::advance(GRACE * 2).await;
        assert_eq!(proxies.departed(), []);
        drop(third);
    }
}
