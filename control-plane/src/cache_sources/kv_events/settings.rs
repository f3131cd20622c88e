//! Where the engines of a pool publish their KV events.

use std::{path::Path, sync::Arc};

use crate::discovery::EventPortNames;

/// Where the engines of a pool publish KV events, unless Kubernetes or the engines state it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEventsSettings {
    /// Where rank 0 publishes; what the engine reports if absent.
    pub port: Option<u16>,
    /// Where rank 0 replays, zero if nowhere; what the engine reports if absent.
    pub replay_port: Option<u16>,
    /// The names of both ports in Kubernetes.
    pub names: EventPortNames,
    /// The prefix of the topics that are subscribed to.
    pub topic: Arc<str>,
    /// Data-parallel ranks of each endpoint; what the engine reports if absent.
    pub ranks: Option<u32>,
    /// From which addresses a publisher that dials may speak for an endpoint.
    pub dial_from: DialSource,
    /// The file with the key that engines want from those who ask where they publish.
    pub key_file: Option<Arc<Path>>,
}

/// From which addresses a publisher that dials may speak for an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialSource {
    /// From the endpoint's own.
    #[default]
    Endpoint,
    /// From any, as behind address translation.
    Anywhere,
}
