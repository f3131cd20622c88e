//! What requests read of the control plane's messages: the view, the replicas, the age of load
//! figures; and which ports are open for them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;
use tokio::sync::Notify;

use super::certificate_follower::CertificateExchange;
use crate::{link::score::ScoreClient, view::RoutingView, worker};

/// Load figures older than this are stale.
const STALE: Duration = Duration::from_secs(3);

/// The state that requests are routed by.
#[derive(Clone, Default)]
pub(crate) struct RoutingState {
    /// The newest snapshot; `None` until the first came.
    pub(crate) view: Arc<ArcSwapOption<RoutingView>>,
    /// Replicas with an open Score stream.
    pub(crate) replicas: Arc<ArcSwap<Vec<ReadyReplica>>>,
    /// The age of the load figures.
    pub(crate) freshness: Arc<LoadFreshness>,
    /// Notified of every new view.
    pub(crate) changed: Arc<Notify>,
    /// The ports of listeners.
    pub(crate) ports: Arc<ArcSwap<Vec<ListenerPort>>>,
    /// The certificates of listeners that are sent.
    pub(crate) certificates: CertificateExchange,
}

/// The port of one or several listeners, for the debug pages.
#[derive(Debug, Serialize)]
pub(crate) struct ListenerPort {
    /// As the snapshot has it.
    pub(crate) address: SocketAddr,
    /// Their names.
    pub(crate) listeners: Vec<Arc<str>>,
    /// Where clients are served; `None`: nowhere.
    pub(crate) bound: Option<SocketAddr>,
    /// Why it is not open.
    pub(crate) error: Option<String>,
    /// Why certificates are not there, or not the newest ones.
    pub(crate) certificate_problems: Vec<String>,
}

/// A replica with an open Score stream.
pub(crate) struct ReadyReplica {
    /// Its name, which rendezvous hashing maps pools to.
    pub(crate) name: Arc<str>,
    /// One for each worker.
    pub(crate) clients: Arc<[ScoreClient]>,
    /// Pools of which the view has more than this replica has discovered: it gets no Score requests
    /// for them.
    pub(crate) lacking: Vec<Arc<str>>,
}

/// When load figures arrived last, readable by every request.
#[derive(Default)]
pub(crate) struct LoadFreshness {
    /// Milliseconds since the process's start, plus one; 0 means never.
    last: AtomicU64,
}

// === ReadyReplica ===

impl ReadyReplica {
    /// The client of this thread's worker, while its stream is open.
    pub(crate) fn client(&self) -> Option<&ScoreClient> {
        let client = self.clients.get(worker::index())?;
        (!client.is_broken()).then_some(client)
    }

    /// Whether it has discovered all that the view has of this pool.
    pub(crate) fn has_discovered(&self, pool: &str) -> bool {
        self.lacking.iter().all(|lacking| **lacking != *pool)
    }
}

// === LoadFreshness ===

impl LoadFreshness {
    pub(super) fn renew(&self, now: Duration) {
        self.last.store(millis(now) + 1, Ordering::Relaxed);
    }

    /// Whether load figures are recent enough to route by.
    pub(crate) fn is_fresh(&self, now: Duration) -> bool {
        self.age(now).is_some_and(|age| age < STALE)
    }

    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(millis(now).saturating_sub(last)))
    }
}

fn millis(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1)
}
