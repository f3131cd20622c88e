//! A publisher without an engine: for benches that need more events than an engine publishes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::{EventPorts, KvEventsConfig, Publisher, serve};
use crate::faults::Faults;
use crate::model::cache_events::{CacheEvent, Stored};

/// Publishes what its owner says, until it is dropped.
#[derive(Debug)]
pub struct LonePublisher {
    addr: SocketAddr,
    publisher: Arc<Publisher>,
    _serving: Vec<AbortOnDropHandle<()>>,
}

impl LonePublisher {
    /// Listens where `config` says. `block_size` is in tokens. Call it inside a Tokio runtime.
    ///
    /// # Errors
    /// When a port cannot be had, or the publisher is to connect.
    pub fn start(config: KvEventsConfig, block_size: usize) -> io::Result<Self> {
        let ports = EventPorts::reserve(&config)?;
        ports.open()?;
        let listens = "a publisher without an engine listens";
        let port = ports
            .publish
            .clone()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, listens))?;
        let faults = Arc::new(Faults::new(Arc::clone(&port)));
        let publisher = Arc::new(Publisher::new(config, block_size, faults));
        let sockets = ports
            .all()
            .map(|(port, role)| serve(Arc::clone(port), Arc::clone(&publisher), role));
        let serving = sockets
            .map(|socket| AbortOnDropHandle::new(tokio::spawn(socket)))
            .collect();
        Ok(Self {
            addr: port.addr(),
            publisher,
            _serving: serving,
        })
    }

    /// Where it publishes.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many listen.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.publisher.subscribers()
    }

    /// One batch: the blocks of a prompt are cached now, under these names.
    pub fn store(&self, names: &[u64], tokens: &[u32]) {
        let (hashes, tokens) = (names.to_vec(), tokens.to_vec());
        let stored = Stored {
            hashes,
            parent: None,
            tokens,
            adapter: None,
            salt: None,
        };
        self.publisher.publish(vec![CacheEvent::Stored(stored)]);
    }

    /// One batch: they are not any more.
    pub fn remove(&self, names: &[u64]) {
        self.publisher
            .publish(names.iter().copied().map(CacheEvent::Removed).collect());
    }
}
