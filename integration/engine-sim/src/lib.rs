//! A simulated model server: real HTTP and vLLM's bytes in front of a simulated GPU.
//!
//! ```text
//! connection ─▶ service ─▶ generation ─▶ scheduler + block cache      (one lock, stepped by one task)
//!  (server)     (routes)   (parse, check)        │ tokens
//!      ◀──────── chat, completions, … ◀──────────┘
//! ```
//!
//! It models what a router can observe: time to first token grows with the uncached prompt and with
//! what else runs, memory bounds what runs at once, prefixes hit until they are evicted, `/metrics`
//! exposes what vLLM exposes, and a client that leaves frees its blocks. The pure parts
//! (`scheduler`, `cache`, `chain`, `tokenizer`, `text`, `meters`, `page`) know neither clock nor
//! socket. Engines can be the prefill and decode engines of pairs ([`PairConfig`]), which meet over
//! sockets of their own.
//! It does not model sampling, or a model that says anything sensible.
//!
//! Everything of an engine ends when its [`EngineHandle`] is dropped.

mod api;
mod args;
mod clock;
mod config;
mod engine_core;
mod engine_ranks;
mod faults;
pub mod http_server;
mod journal;
mod kv_events;
pub mod kv_manager;
pub mod model;
mod pair;
mod serve;
mod transport;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use crate::api::Prompt;
pub use crate::args::EngineArgs;
pub use crate::config::EngineConfig;
pub use crate::faults::{Fault, Faults};
pub use crate::journal::RecordedRequest;
pub use crate::kv_events::{Encoding, KvEventsConfig, LonePublisher};
pub use crate::pair::{PairConfig, PairNetwork, PairProtocol, PairRole, PairViolation};

use crate::api::EngineContext;
use crate::engine_ranks::EngineRanks;
use crate::journal::Journal;
use crate::kv_events::{EventPorts, Publisher};
use crate::pair::{EngineIdentity, PairEngine};
use crate::serve::{Connections, Orders, Service, serve};
use crate::transport::port::Port;

/// Starts simulated engines.
#[derive(Clone, Copy, Debug)]
pub struct Engine;

/// A running simulated engine. Dropping it kills the engine.
#[derive(Debug)]
pub struct EngineHandle {
    config: Arc<EngineConfig>,
    port: Arc<Port>,
    events: Option<EventPorts>,
    /// The side channel of a prefill engine.
    side_channel: Option<Arc<Port>>,
    faults: Arc<Faults>,
    journal: Arc<Journal>,
    runtime: Handle,
    running: Mutex<Option<Incarnation>>,
}

/// What one engine is doing and has done since it (re)started. All zero while it is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Inference requests received, faulty ones included.
    pub requests: u64,
    /// Sequences in the current batch.
    pub running: usize,
    /// Sequences that wait for a seat or for memory.
    pub waiting: usize,
    /// Sequences whose client left before the end.
    pub aborted: u64,
    /// Sequences that lost their memory to older ones, counted each time.
    pub preemptions: u64,
    /// KV blocks held by running sequences.
    pub used_blocks: usize,
    /// KV blocks whose content a later prompt can hit, running or not.
    pub cached_blocks: usize,
    /// Prompt tokens processed, cached ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens found in the cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Connections accepted.
    pub accepted_connections: u64,
    /// Connections open now.
    pub open_connections: usize,
}

/// One life of an engine, from start to stop; a restart begins another one with an empty cache.
#[derive(Debug)]
struct Incarnation {
    service: Arc<Service>,
    /// The publisher of KV events.
    publisher: Option<Arc<Publisher>>,
    connections: Arc<Connections>,
    orders: watch::Sender<Orders>,
    /// The accept loop, which owns the connections.
    server: JoinSet<()>,
    /// The scheduler's task, the publisher's, and the one that drains connections when the port
    /// refuses.
    background: JoinSet<()>,
    /// Open until the end, as decode engines still take what was prefilled.
    side_channel: Option<Arc<Port>>,
}

impl Engine {
    /// Starts an engine; it listens when this returns.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration that describes no machine; otherwise what `bind` says,
    /// such as `AddrInUse`.
    pub async fn start(mut config: EngineConfig) -> io::Result<EngineHandle> {
        config.check()?;
        let port = Arc::new(Port::reserve(config.listen)?);
        if let Some(events) = &mut config.kv_events {
            events.topic = events.topic.replace("{address}", &port.addr().to_string());
        }
        let events = config
            .kv_events
            .as_ref()
            .map(EventPorts::reserve)
            .transpose()?;
        let side_channel = side_channel(&config, port.addr())?;
        let engine = EngineHandle {
            events,
            side_channel,
            faults: Arc::new(Faults::new(Arc::clone(&port))),
            journal: Arc::new(Journal::new(config.journal)),
            config: Arc::new(config),
            port,
            runtime: Handle::current(),
            running: Mutex::new(None),
        };
        engine.begin()?;
        Ok(engine)
    }
}

impl EngineStats {
    /// Adds what another rank has scheduled.
    fn plus_scheduled(self, other: Self) -> Self {
        Self {
            running: self.running + other.running,
            waiting: self.waiting + other.waiting,
            preemptions: self.preemptions + other.preemptions,
            used_blocks: self.used_blocks + other.used_blocks,
            cached_blocks: self.cached_blocks + other.cached_blocks,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            generation_tokens: self.generation_tokens + other.generation_tokens,
            ..self
        }
    }
}

impl EngineHandle {
    /// The address on which the engine listens, also after a restart.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Where it publishes KV events, if it listens, and where it replays them.
    pub fn kv_events_addrs(&self) -> Option<(SocketAddr, Option<SocketAddr>)> {
        let EventPorts { publish, replay } = self.events.as_ref()?;
        Some((
            publish.as_ref()?.addr(),
            replay.as_ref().map(|port| port.addr()),
        ))
    }

    /// How many are subscribed to its KV events.
    pub fn kv_events_subscribers(&self) -> usize {
        let running = self.running.lock();
        let publisher = running.as_ref().and_then(|life| life.publisher.as_ref());
        publisher.map_or(0, |publisher| publisher.subscribers())
    }

    /// Where decode engines find it, if it is the prefill engine of pairs.
    pub fn side_channel_addr(&self) -> Option<SocketAddr> {
        Some(self.side_channel.as_ref()?.addr())
    }

    /// The configuration with which it was started.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The switchboard for faults.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The requests that arrived, oldest first, as far as the journal remembers; they outlive a
    /// restart.
    pub fn requests(&self) -> Vec<Arc<RecordedRequest>> {
        self.journal.all()
    }

    /// What the engine is doing and has done.
    pub fn stats(&self) -> EngineStats {
        let running = self.running.lock();
        let Some(Incarnation {
            service,
            connections,
            ..
        }) = running.as_ref()
        else {
            return EngineStats::default();
        };
        let ranks = service.context.ranks.read(|scheduler| {
            let (cache, meters) = (scheduler.cache(), scheduler.meters());
            EngineStats {
                running: scheduler.running(),
                waiting: scheduler.waiting(),
                preemptions: meters.preemptions,
                used_blocks: cache.used(),
                cached_blocks: cache.named(),
                prompt_tokens: meters.prompt_tokens,
                cached_tokens: meters.prefix_hits,
                generation_tokens: meters.generation_tokens,
                ..EngineStats::default()
            }
        });
        let scheduled = ranks
            .into_iter()
            .fold(EngineStats::default(), EngineStats::plus_scheduled);
        EngineStats {
            requests: service.requests(),
            aborted: service.context.ranks.aborted(),
            accepted_connections: connections.accepted.load(Ordering::Relaxed),
            open_connections: connections.open.load(Ordering::Relaxed),
            ..scheduled
        }
    }

    /// How many leading tokens of this prompt are in the cache now. `model` is the base model or an
    /// adapter. Changes nothing.
    pub fn held_prefix_tokens(&self, model: &str, prompt: Prompt<'_>) -> usize {
        let running = self.running.lock();
        running.as_ref().map_or(0, |incarnation| {
            incarnation
                .service
                .context
                .held_prefix_tokens(model, prompt)
        })
    }

    /// Stops in order: refuses connections, lets open requests finish for the configured grace,
    /// then cuts them off.
    pub async fn stop(&self) {
        let Some(mut incarnation) = self.end() else {
            return;
        };
        incarnation.orders.send_modify(|orders| {
            orders.drains += 1;
            orders.stopped = true;
        });
        let drained = async { while incarnation.server.join_next().await.is_some() {} };
        if tokio::time::timeout(self.config.grace, drained)
            .await
            .is_err()
        {
            incarnation.kill().await;
        }
    }

    /// Dies: the port refuses and every connection is reset, in the middle of whatever it was
    /// doing.
    pub async fn kill(&self) {
        if let Some(incarnation) = self.end() {
            incarnation.kill().await;
        }
    }

    /// Starts again on the same port with an empty cache, fresh counters and no faults; kills what
    /// still runs first.
    ///
    /// # Errors
    /// What `bind` says.
    pub async fn restart(&self) -> io::Result<()> {
        self.kill().await;
        self.faults.clear();
        self.begin()
    }

    fn begin(&self) -> io::Result<()> {
        let events = self.config.kv_events.clone();
        let publisher = events
            .map(|events| Publisher::new(events, self.config.block_size, Arc::clone(&self.faults)));
        let publisher = publisher.map(Arc::new);
        let ranks = EngineRanks::new(&self.config, &self.faults, publisher.as_ref());
        let cores: Vec<_> = ranks.cores().collect();
        let (config, faults, journal) = (
            Arc::clone(&self.config),
            Arc::clone(&self.faults),
            Arc::clone(&self.journal),
        );
        let service = Arc::new(Service::new(EngineContext::new(
            config,
            ranks,
            faults,
            journal,
            self.events.clone(),
            self.pair(),
        )));
        let connections = Arc::new(Connections::default());
        let (orders, order_receiver) = watch::channel(Orders::default());
        self.port.open()?;
        if let Some(ports) = &self.events {
            ports.open()?;
        }
        let mut server = JoinSet::new();
        server.spawn_on(
            serve(
                Arc::clone(&self.port),
                Arc::clone(&service),
                Arc::clone(&connections),
                order_receiver,
            ),
            &self.runtime,
        );
        let mut background = JoinSet::new();
        if let Some(publisher) = &publisher {
            self.publish_kv_events(publisher, &mut background);
        }
        if let (Some(port), Some(pair)) = (&self.side_channel, &service.context.pair) {
            port.open()?;
            background.spawn_on(
                pair::serve(Arc::clone(port), Arc::clone(pair)),
                &self.runtime,
            );
            let pair = Arc::clone(pair);
            background.spawn_on(async move { pair.expire_leases().await }, &self.runtime);
        }
        for core in cores {
            background.spawn_on(async move { core.run().await }, &self.runtime);
        }
        background.spawn_on(
            drain_refused(Arc::clone(&self.faults), orders.clone()),
            &self.runtime,
        );
        *self.running.lock() = Some(Incarnation {
            service,
            publisher,
            connections,
            orders,
            server,
            background,
            side_channel: self.side_channel.clone(),
        });
        Ok(())
    }

    /// Its part in pairs, for a life that begins now.
    fn pair(&self) -> Option<Arc<PairEngine>> {
        let config = self.config.pair.as_ref()?;
        let listens = self.side_channel_addr().unwrap_or(self.addr());
        let host = match &config.host {
            Some(host) => host.clone(),
            None if listens.ip().is_unspecified() => "localhost".to_owned(),
            None => listens.ip().to_string(),
        };
        let identity = EngineIdentity {
            engine_id: format!("{listens}-{:x}", clock::since_epoch().as_nanos()),
            version: self.config.version.clone(),
            model: self.config.model.clone(),
        };
        let address = (host, listens.port());
        let EngineConfig {
            data_parallel,
            time_scale,
            ..
        } = *self.config;
        let pair = PairEngine::new(config, identity, address, (data_parallel, time_scale));
        let pair = Arc::new(pair);
        config.network.add(&pair);
        Some(pair)
    }

    /// Starts the sockets of the publisher of KV events.
    fn publish_kv_events(&self, publisher: &Arc<Publisher>, background: &mut JoinSet<()>) {
        let ports = self.events.iter().flat_map(EventPorts::all);
        for (port, role) in ports {
            let serving = kv_events::serve(Arc::clone(port), Arc::clone(publisher), role);
            background.spawn_on(serving, &self.runtime);
        }
        let events = self.config.kv_events.as_ref();
        if let Some(subscriber) = events.and_then(|events| events.connect.clone()) {
            let dialing = kv_events::dial(subscriber, Arc::clone(publisher));
            background.spawn_on(dialing, &self.runtime);
        }
    }

    fn end(&self) -> Option<Incarnation> {
        self.port.shut();
        if let Some(ports) = &self.events {
            ports.shut();
        }
        self.running.lock().take()
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        // The incarnation's tasks are aborted with it; the reservation of the port goes with the
        // port.
        drop(self.end());
    }
}

impl Incarnation {
    fn shut_side_channel(&self) {
        if let Some(port) = &self.side_channel {
            port.shut();
        }
    }

    async fn kill(mut self) {
        self.orders.send_modify(|orders| {
            orders.stopped = true;
            orders.killed = true;
        });
        self.shut_side_channel();
        while self.server.join_next().await.is_some() {}
        self.background.shutdown().await;
        self.service.context.close();
    }
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        self.shut_side_channel();
        self.service.context.close();
    }
}

/// Takes the port of a prefill engine's side channel.
fn side_channel(config: &EngineConfig, engine: SocketAddr) -> io::Result<Option<Arc<Port>>> {
    let Some(pair) = config
        .pair
        .as_ref()
        .filter(|pair| pair.role != PairRole::Decode)
    else {
        return Ok(None);
    };
    let port = Port::reserve(SocketAddr::new(engine.ip(), pair.port))?;
    Ok(Some(Arc::new(port)))
}

/// Ends connections, after their current request, each time the port begins to refuse.
async fn drain_refused(faults: Arc<Faults>, orders: watch::Sender<Orders>) {
    loop {
        faults.refused().await;
        orders.send_modify(|orders| orders.drains += 1);
    }
}
