//! KV events over ZeroMQ, as vLLM publishes them: the changes of the block cache, batch by batch.
//!
//! ```text
//! scheduler ─▶ log ──one step─▶ publisher ─▶ PUB, listens or dials: [topic, number, payload]
//!                                   │        ROUTER: what was published before, on demand
//!                                   └ payload: MessagePack, new form or old
//! ```
//!
//! The engine's names of blocks are its own chained hashes. As in vLLM, a removal is one event a
//! block, a reused block is not published again, and a cleared cache is published with the next
//! step's events. Every incarnation numbers its batches from zero.

mod dial;
mod lone;
mod payload;
mod publisher;
mod serve;
mod zmtp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::ValueEnum;

pub(crate) use self::dial::dial;
pub use self::lone::LonePublisher;
pub(crate) use self::publisher::Publisher;
pub(crate) use self::serve::{Role, serve};
use crate::transport::port::Port;

/// How an engine publishes KV events.
#[derive(Clone, Debug)]
pub struct KvEventsConfig {
    /// Where it publishes; port 0 picks a free one.
    pub publish: SocketAddr,
    /// The subscriber, as `host:port`, to which it connects instead of listening there.
    pub connect: Option<String>,
    /// Where it replays, if at all.
    pub replay: Option<SocketAddr>,
    /// The topic of every batch, in which `{address}` is replaced by where the engine listens.
    pub topic: String,
    /// How events are written.
    pub encoding: Encoding,
    /// Batches that it remembers for replays.
    pub buffer: usize,
    /// Messages that one answer to a replay may have. What is over is dropped, the end included, as
    /// by a ROUTER socket over its high-water mark.
    pub replay_queue: usize,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// Maps with names, as since vLLM 0.24.
    #[default]
    Maps,
    /// Arrays that begin with the type, as before.
    Arrays,
}

/// The two ports, which outlive incarnations.
#[derive(Clone, Debug)]
pub(crate) struct EventPorts {
    /// `None` if the publisher connects to its subscriber.
    pub(crate) publish: Option<Arc<Port>>,
    pub(crate) replay: Option<Arc<Port>>,
}

impl Default for KvEventsConfig {
    /// Any ports of the loopback, and vLLM's defaults.
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            publish: any,
            connect: None,
            replay: Some(any),
            topic: String::new(),
            encoding: Encoding::default(),
            buffer: 10_000,
            replay_queue: usize::MAX,
        }
    }
}

impl EventPorts {
    /// Takes the ports, without listening yet.
    pub(crate) fn reserve(config: &KvEventsConfig) -> io::Result<Self> {
        let listen = config.connect.is_none().then_some(config.publish);
        let reserve = |address: Option<SocketAddr>| {
            let port = address.map(Port::reserve).transpose()?;
            io::Result::Ok(port.map(Arc::new))
        };
        Ok(Self {
            publish: reserve(listen)?,
            replay: reserve(config.replay)?,
        })
    }

    pub(crate) fn open(&self) -> io::Result<()> {
        self.all().try_for_each(|(port, _)| port.open())
    }

    pub(crate) fn shut(&self) {
        self.all().for_each(|(port, _)| port.shut());
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<Port>, Role)> {
        let replay = self.replay.iter().map(|port| (port, Role::Replay));
        let publish = self.publish.iter().map(|port| (port, Role::Publish));
        publish.chain(replay)
    }
}
