//! Numbers batches, remembers the newest ones, and sends them to subscribers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use super::payload::payload;
use super::{KvEventsConfig, zmtp};
use crate::clock::since_epoch;
use crate::faults::{Fault, Faults};
use crate::model::cache_events::CacheEvent;

/// Batches that may wait for a slow subscriber; more are dropped, as by a PUB socket over its
/// high-water mark.
const HIGH_WATER_MARK: usize = 4_096;

/// One batch on its way.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) payload: Bytes,
}

/// The publisher of one incarnation of an engine.
#[derive(Debug)]
pub(crate) struct Publisher {
    config: KvEventsConfig,
    block_size: usize,
    faults: Arc<Faults>,
    log: Mutex<Log>,
    live: broadcast::Sender<Batch>,
    mute: AtomicBool,
    disconnects: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    next: u64,
    newest: VecDeque<Batch>,
}

impl Publisher {
    pub(crate) fn new(config: KvEventsConfig, block_size: usize, faults: Arc<Faults>) -> Self {
        let (live, _) = broadcast::channel(HIGH_WATER_MARK);
        Self {
            config,
            block_size,
            faults,
            log: Mutex::default(),
            live,
            mute: AtomicBool::new(false),
            disconnects: watch::Sender::default(),
        }
    }

    /// Publishes what happened in one step, if anything did.
    pub(crate) fn publish(&self, mut events: Vec<CacheEvent>) {
        if events.is_empty() {
            return;
        }
        let fault = self.faults.for_kv_events();
        if fault == Some(Fault::KvEventsHideRemovals) {
            events.retain(|event| !matches!(event, CacheEvent::Removed(_)));
        }
        let mut log = self.log.lock();
        let payload = match fault {
            Some(Fault::KvEventsGarbage) => Bytes::from_static(b"\xc1 these are no events"),
            _ => payload(
                self.config.encoding,
                since_epoch().as_secs_f64(),
                self.block_size,
                &events,
            )
            .into(),
        };
        let batch = Batch {
            number: log.next,
            payload,
        };
        log.next += 1;
        log.newest.push_back(batch.clone());
        if log.newest.len() > self.config.buffer {
            log.newest.pop_front();
        }
        match fault {
            Some(Fault::KvEventsDrop) => {}
            Some(Fault::KvEventsDisconnect) => self.disconnects.send_modify(|count| *count += 1),
            Some(Fault::KvEventsMute) => self.mute.store(true, Ordering::Relaxed),
            // There may be no subscriber.
            _ => drop(self.live.send(batch)),
        }
    }

    /// Batches from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Batch> {
        self.live.subscribe()
    }

    /// How many are subscribed.
    pub(crate) fn subscribers(&self) -> usize {
        self.live.receiver_count()
    }

    /// Changes each time all connections are to be closed.
    pub(super) fn disconnects(&self) -> watch::Receiver<u64> {
        self.disconnects.subscribe()
    }

    /// Whether it says nothing any more, as a host that is gone.
    pub(super) fn is_mute(&self) -> bool {
        self.mute.load(Ordering::Relaxed)
    }

    /// A batch as its subscribers get it, if its topic is among theirs.
    pub(super) fn message(&self, batch: &Batch, subscriptions: &[Vec<u8>]) -> Option<Vec<u8>> {
        let topic = self.config.topic.as_bytes();
        let is_wanted = subscriptions
            .iter()
            .any(|subscription| topic.starts_with(subscription));
        is_wanted.then(|| zmtp::message(&[topic, &batch.number.to_be_bytes(), &batch.payload]))
    }

    /// The answer to a question for all batches from `first` on: those that are remembered, and the
    /// end.
    pub(super) fn replay(&self, first: u64) -> Vec<u8> {
        let topic = self.config.topic.as_bytes();
        let log = self.log.lock();
        let wanted = log.newest.iter().filter(|batch| batch.number >= first);
        let replayed = wanted
            .map(|batch| zmtp::message(&[b"", topic, &batch.number.to_be_bytes(), &batch.payload]));
        let end = zmtp::message(&[b"", b"", &u64::MAX.to_be_bytes(), b""]);
        replayed
            .chain([end])
            .take(self.config.replay_queue)
            .flatten()
            .collect()
    }
}
