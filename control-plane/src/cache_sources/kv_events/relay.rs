//! What publishers say that dialed this replica, passed on to the other replicas.
//!
//! ```text
//!   publisher ─▶ listener ─┬─▶ endpoint            another replica ─▶ listener, as a SUB socket
//!                          └─▶ relay ─────────────────────▶ [pool, endpoint and rank, number, payload]
//!                                                           [pool, endpoint and rank, end, nothing]
//! ```
//!
//! Batches are passed on as they came, so that the numbers show the other replica what was lost on
//! the way. Who the publisher is was decided here.
//!
//! Invariants: only the addresses of other replicas are served; one that reads slowly loses batches,
//! and no other peer waits for it; batches that were relayed to this replica are not passed on.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::snapshot::EndpointId;
use parking_lot::Mutex;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};

use super::zmtp::{Message, Peer, ZmtpError};

/// Batches that may wait for a replica.
const WAITING: usize = 2_048;

/// How long a replica may take to take a batch off.
const SEND: Duration = Duration::from_secs(5);

/// The number after the last batch of a stream, as at the end of replays.
const END: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct ReplicaRelay {
    /// Names this process among the replicas.
    identity: [u8; 8],
    batches: broadcast::Sender<RelayedBatch>,
    replicas: Mutex<HashSet<IpAddr>>,
}

/// Whose batches a stream has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RelayKey {
    pub(super) pool: Arc<str>,
    pub(super) endpoint: EndpointId,
    pub(super) rank: u32,
}

/// One message from replica to replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelayedBatch {
    pub(super) key: RelayKey,
    /// A number and a payload; `None` at the end of the stream.
    pub(super) batch: Option<(Bytes, Bytes)>,
}

/// A stream that is passed on. Dropping it ends it at the other replicas.
#[derive(Debug)]
pub(super) struct RelayedStream {
    relay: Arc<ReplicaRelay>,
    key: RelayKey,
}

// === ReplicaRelay ===

impl ReplicaRelay {
    pub(super) fn new(identity: u64) -> Self {
        Self {
            identity: identity.to_be_bytes(),
            batches: broadcast::channel(WAITING).0,
            replicas: Mutex::default(),
        }
    }

    pub(super) const fn identity(&self) -> &[u8] {
        &self.identity
    }

    /// From now on these addresses are those of the replicas.
    pub(super) fn set_replicas(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical());
        *self.replicas.lock() = addresses.collect();
    }

    /// Whether a replica has this address.
    pub(super) fn serves(&self, address: IpAddr) -> bool {
        self.replicas.lock().contains(&address.to_canonical())
    }

    /// A stream that begins.
    pub(super) fn begin(self: &Arc<Self>, key: RelayKey) -> RelayedStream {
        RelayedStream {
            relay: Arc::clone(self),
            key,
        }
    }

    /// Passes everything on to a replica that connected, until it leaves.
    pub(super) async fn publish(&self, mut peer: Peer) -> Result<(), ZmtpError> {
        let mut batches = self.batches.subscribe();
        loop {
            tokio::select! {
                batch = batches.recv() => match batch {
                    Ok(batch) => {
                        let sent = timeout(SEND, batch.send(&mut peer)).await;
                        sent.map_err(|_late| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
                    }
                    Err(RecvError::Lagged(lost)) => {
                        tracing::debug!(lost, "batches of KV events did not reach a replica");
                    }
                    Err(RecvError::Closed) => return Ok(()),
                },
                // Its subscription, which is for everything, and its pings.
                received = peer.next() => { received?; }
            }
        }
    }
}

// === RelayedStream ===

impl RelayedStream {
    /// Passes on one message of the publisher.
    pub(super) fn pass(&self, message: &Message) {
        if let [.., number, payload] = &message[..] {
            self.send(Some((number.clone(), payload.clone())));
        }
    }

    fn send(&self, batch: Option<(Bytes, Bytes)>) {
        let key = self.key.clone();
        // There may be no other replica.
        let _sent = self.relay.batches.send(RelayedBatch { key, batch });
    }
}

impl Drop for RelayedStream {
    fn drop(&mut self) {
        self.send(None);
    }
}

// === RelayedBatch ===

impl RelayedBatch {
    async fn send(&self, peer: &mut Peer) -> Result<(), ZmtpError> {
        let RelayKey {
            pool,
            endpoint,
            rank,
        } = &self.key;
        let key = [&endpoint.0.to_be_bytes()[..], &rank.to_be_bytes()].concat();
        let end = END.to_be_bytes();
        let (number, payload) = match &self.batch {
            Some((number, payload)) => (&number[..], &payload[..]),
            None => (&end[..], &[][..]),
        };
        peer.send(&[pool.as_bytes(), &key, number, payload]).await
    }

    /// What another replica sent; nothing if it is something else.
    pub(super) fn read(message: &Message) -> Option<Self> {
        let [pool, key, number, payload] = &message[..] else {
            return None;
        };
        let (endpoint, rank) = key.split_first_chunk()?;
        let key = RelayKey {
            pool: std::str::from_utf8(pool).ok()?.into(),
            endpoint: EndpointId(u64::from_be_bytes(*endpoint)),
            rank: u32::from_be_bytes(rank.try_into().ok()?),
        };
        let is_end = *number == END.to_be_bytes()[..];
        let batch = (number.clone(), payload.clone());
        Some(Self {
            key,
            batch: (!is_end).then_some(batch),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_message_of_a_replica_is_read_or_refused(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..14), 0..6),
        ) {
            let message: Message = frames.into_iter().map(Bytes::from).collect();
            let _batch = RelayedBatch::read(&message);
        }
    }

    #[test]
    fn only_addresses_of_replicas_are_served() {
        let relay = ReplicaRelay::new(1);
        relay.set_replicas(["::ffff:10.0.0.7".parse().expect("an address")]);
        assert!(relay.serves([10, 0, 0, 7].into()));
        assert!(!relay.serves([10, 0, 0, 8].into()));
    }
}
