//! From the control plane's streams to the one view that requests route by.
//!
//! ```text
//!   DNS ──▶ addresses ──▶ one task a replica ──news──▶ Board (one owner) ──▶ ArcSwap<View>, ready replicas
//!                              ▲                          │
//!                              └── reports, in batches ◀──┘
//! ```
//!
//! Replicas are equal and each knows everything; the proxy routes by the snapshot of one, and goes over to another
//! when that one is lost. When all are lost the last view stays: a proxy without control plane goes on serving.

mod board;
mod replica;
mod reports;
mod teaching;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use hermes_runtime::readiness::Gate;
use tokio::{
    net::lookup_host,
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use self::{board::Board, replica::News, reports::Outbox};
use crate::{app::Identity, metrics::Metrics, report::Reporter, score::Asker, view::View};

/// How often the control plane's name is resolved: replicas come and go behind a headless Service.
const RESOLVE: Duration = Duration::from_secs(5);

/// One look-up takes this long at most.
const LOOKUP: Duration = Duration::from_secs(2);

/// Replicas that one proxy follows at most.
const MAX_REPLICAS: usize = 16;

/// News of replicas that wait to be folded; a replica's stream waits when they are more.
const NEWS: usize = 64;

/// What requests read.
#[derive(Clone, Default)]
pub(crate) struct Knowledge {
    /// The newest snapshot; `None` until the first came.
    pub(crate) view: Arc<ArcSwapOption<View>>,
    /// Replicas that can be asked.
    pub(crate) replicas: Arc<ArcSwap<Vec<Ready>>>,
    /// When load figures came last.
    pub(crate) freshness: Arc<board::Freshness>,
    /// Told of every new view.
    pub(crate) changed: Arc<Notify>,
}

/// A replica that can be asked.
pub(crate) struct Ready {
    /// By which rendezvous hashing knows it.
    pub(crate) name: Arc<str>,
    pub(crate) asker: Asker,
}

/// Follows every replica behind `targets` (`host:port`) until it is dropped.
pub(crate) async fn run(
    targets: Vec<String>,
    identity: Identity,
    knowledge: Knowledge,
    reporter: Arc<Reporter>,
    reports: mpsc::Receiver<hermes_proto::v1::Report>,
    metrics: Arc<Metrics>,
    ready: Gate,
) {
    let (news, inbox) = mpsc::channel(NEWS);
    let outbox = Outbox::default();
    let mut owners = JoinSet::new();
    owners.spawn(reports::run(reports, Arc::clone(&reporter), outbox.clone(), Arc::clone(&metrics)));
    owners.spawn(Board::new(knowledge, metrics, ready).run(inbox));

    let mut followed = Followed { news, outbox, identity, reporter, tasks: JoinSet::new(), by_address: HashMap::new() };
    let mut tick = interval(RESOLVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Some(addresses) = resolve(&targets).await {
            followed.follow(&addresses);
        }
    }
}

/// The tasks that follow replicas, one an address.
struct Followed {
    news: mpsc::Sender<News>,
    outbox: Outbox,
    identity: Identity,
    reporter: Arc<Reporter>,
    tasks: JoinSet<()>,
    by_address: HashMap<SocketAddr, AbortHandle>,
}

impl Followed {
    /// Follows these addresses and no other.
    fn follow(&mut self, addresses: &[SocketAddr]) {
        self.by_address.retain(|address, task| {
            let stays = addresses.contains(address);
            if !stays {
                tracing::info!(%address, "the control plane's name no longer names this replica");
                task.abort();
            }
            stays
        });
        for &address in addresses {
            let Self { news, outbox, identity, reporter, tasks, .. } = self;
            self.by_address.entry(address).or_insert_with(|| {
                let replica = replica::Replica {
                    address,
                    identity: identity.clone(),
                    news: news.clone(),
                    outbox: outbox.clone(),
                    reporter: Arc::clone(reporter),
                };
                tasks.spawn(replica.follow())
            });
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Every address behind the targets, or `None` when no look-up worked: then the known ones stay.
async fn resolve(targets: &[String]) -> Option<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    let mut any = false;
    for target in targets {
        match timeout(LOOKUP, lookup_host(target)).await {
            Ok(Ok(found)) => {
                any = true;
                addresses.extend(found);
            }
            Ok(Err(error)) => tracing::warn!(target, %error, "the control plane's name does not resolve"),
            Err(_) => tracing::warn!(target, "resolving the control plane's name takes too long"),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_REPLICAS);
    any.then_some(addresses)
}
