//! What the caches of a pool hold, learned from its engines' KV events.
//!
//! ```text
//!   endpoints ──set──▶ one task each ──▶ one stream per data-parallel rank     zmtp: bytes   sequence: what is missing
//!                                           │ decode ─▶ ingest, in slices      replay: asks for it
//!   Score ──hits(token ids)──▶ Residency ◀──┘
//! ```
//!
//! It reports an endpoint only while its stream is in sync: one whose stream is broken, absent or
//! inconsistent is not among the hits, and other sources are used for it.
//!
//! Invariants:
//! * a prompt's tokens are compared and not kept; neither they nor an engine's reach a log, an
//!   error or a metric;
//! * a lookup waits for a writer at most some tens of microseconds at a time;
//! * every endpoint has one task and no queue: an engine that publishes faster than this reads is
//!   slowed down by TCP, and batches that its publisher drops are requested again;
//! * dropping the [`KvEvents`] ends everything.
//!
//! The cluster decides which endpoints are followed, and passes on the ports that Kubernetes has.

pub mod decode;
mod follow;
mod ingest;
mod metrics;
mod msgpack;
mod replay;
mod sequence;
mod settings;
mod source;
mod stream;
mod view;
mod zmtp;

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::{
    address::ServerAddress, block_index::CacheIdentity, policy::EndpointTrust, query::CacheHit,
    snapshot::EndpointId,
};
use hermes_runtime::metrics::Handles;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::view::{STANDINGS, standing_name};
use self::{
    follow::{EndpointFollower, RankStatuses},
    ingest::SharedIndex,
    metrics::KvEventsPoolMetrics,
    source::PublisherPorts,
};
pub use self::{
    metrics::KvEventsMetrics,
    settings::KvEventsSettings,
    view::{PoolStreams, StreamView},
};
use crate::{
    discovery::EventPorts,
    engines::{EngineClients, fetch},
};

/// The KV events of one pool; see the module.
#[derive(Debug)]
pub struct KvEvents {
    config: KvEventsSettings,
    shared: Arc<SharedIndex>,
    counters: Arc<Handles<KvEventsPoolMetrics>>,
    clients: EngineClients,
    following: Mutex<BTreeMap<EndpointId, FollowedEndpoint>>,
    _sweeper: AbortOnDropHandle<()>,
}

/// An endpoint that may publish KV events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// The endpoint whose cache they describe.
    pub endpoint: EndpointId,
    /// The endpoint's address, whose host the publisher shares.
    pub address: ServerAddress,
    /// Who may sign the endpoint's certificate.
    pub trust: EndpointTrust,
    /// Its ports, as far as Kubernetes has them.
    pub ports: Option<EventPorts>,
}

/// One endpoint that is followed.
#[derive(Debug)]
struct FollowedEndpoint {
    publisher: Publisher,
    ranks: RankStatuses,
    _task: AbortOnDropHandle<()>,
}

// === KvEvents ===

impl KvEvents {
    /// The KV events of a pool, of which no endpoint is known yet. Belongs into a Tokio runtime.
    ///
    /// # Errors
    /// When the TLS configuration of the process is unusable.
    pub fn new(
        pool: &Arc<str>,
        config: KvEventsSettings,
        metrics: &KvEventsMetrics,
    ) -> Result<Self, reqwest::Error> {
        let shared = Arc::new(SharedIndex::default());
        let sweeping = Arc::clone(&shared);
        let sweeper = tokio::spawn(async move { sweeping.sweep().await });
        Ok(Self {
            config,
            shared,
            counters: metrics.pool(pool),
            clients: fetch::clients()?,
            following: Mutex::default(),
            _sweeper: AbortOnDropHandle::new(sweeper),
        })
    }

    /// Follows exactly these endpoints from now on. Those that stay are not disturbed.
    pub fn set(&self, publishers: impl IntoIterator<Item = Publisher>) {
        let mut following = self.following.lock();
        let mut before = std::mem::take(&mut *following);
        for publisher in publishers {
            let kept = before
                .remove(&publisher.endpoint)
                .filter(|known| known.publisher == publisher);
            if let Some(known) = kept.or_else(|| self.follow(publisher)) {
                following.insert(known.publisher.endpoint, known);
            }
        }
    }

    /// How much of this prompt is cached at every endpoint whose stream is in sync, zero included;
    /// see [`BlockIndex::hits`](hermes_core::block_index::BlockIndex::hits).
    #[must_use]
    pub fn hits(&self, tokens: &[u32], identity: &CacheIdentity) -> Vec<CacheHit> {
        let began = Instant::now();
        let hits = self.shared.residency.read().hits(tokens, identity);
        self.counters.lookup.observe(began.elapsed().as_secs_f64());
        hits
    }

    /// How its streams are doing.
    #[must_use]
    pub fn view(&self) -> PoolStreams {
        let mut streams = Vec::new();
        for FollowedEndpoint {
            publisher, ranks, ..
        } in self.following.lock().values()
        {
            let views = ranks
                .lock()
                .iter()
                .map(|rank| StreamView::of(publisher.endpoint, &publisher.address, rank))
                .collect::<Vec<_>>();
            streams.extend(views);
        }
        let residency = self.shared.residency.read();
        let (blocks, index) = (residency.blocks(), residency.bytes() as u64);
        drop(residency);
        PoolStreams {
            blocks,
            bytes: index + streams.iter().map(|stream| stream.bytes).sum::<u64>(),
            streams,
        }
    }

    fn follow(&self, publisher: Publisher) -> Option<FollowedEndpoint> {
        let Publisher {
            endpoint,
            address,
            trust,
            ports,
        } = &publisher;
        let engine = self.clients.to(address, trust);
        let publisher_ports =
            engine.and_then(|engine| PublisherPorts::new(address, *ports, &self.config, &engine));
        let publisher_ports = publisher_ports.inspect_err(|error| {
            tracing::warn!(%endpoint, url = %address, %error, "KV events are not followed");
        });
        let publisher_ports = publisher_ports.ok()?;
        let ranks = RankStatuses::default();
        let follower = EndpointFollower {
            endpoint: *endpoint,
            ports: publisher_ports,
            shared: Arc::clone(&self.shared),
            counters: self.counters.clone(),
            topic: self.config.topic.as_bytes().into(),
            ranks: Arc::clone(&ranks),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(follower.run()));
        Some(FollowedEndpoint {
            publisher,
            ranks,
            _task: task,
        })
    }
}
