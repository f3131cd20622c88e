//! What exists, as one immutable value: keyed collections, each of one kind of thing.
//!
//! ```text
//!   Snapshot ─┬─ settings
//!             ├─ routes, by name
//!             ├─ listeners, by name
//!             └─ pools, by name ── Pool ─┬─ spec
//!                                        ├─ models, by name, each with its holders
//!                                        └─ endpoints, by id
//! ```
//!
//! Whatever a pool has many of is a collection of the pool, so that it is a unit: a pool that did
//! not change is the same [`Arc`] in the next snapshot, and one that is gone takes its endpoints
//! with it. What exists beside pools is a collection of the snapshot.
//!
//! The control plane builds a [`Snapshot`], streams it, and every proxy keeps the newest. A request
//! loads it once and sees that one cluster to its end. How loaded endpoints are is not here but in
//! [`crate::load`]: load changes many times a second, structure does not.
//!
//! Nothing in it is secret: every proxy gets it, and `/debug/snapshot` shows it whole. What names a
//! credential is a reference, such as the name of a header.

use std::{fmt, num::NonZeroU16, sync::Arc};

use serde::Serialize;

pub use super::version::{Epoch, Version};
use crate::{
    address::ServerAddress,
    collection::{Collection, Keyed},
    inference_pool::{AskedPicker, ModelPriority, Objective, PickerReference},
    listener::Listener,
    policy::{PairDialect, PoolPolicy, ProxySettings},
    rewrites::ModelRewrite,
    route::Route,
};

/// Names one incarnation of one endpoint in one pool, equally in every control-plane replica.
///
/// A hash of pool, URL and incarnation, so that replicas agree without communication. A pod that
/// restarts at the same address is another endpoint: nothing learned about its predecessor's cache
/// applies to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct EndpointId(pub u64);

/// What an endpoint does for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Prefill and decode in one server.
    #[default]
    Aggregate,
    /// The same, and it may be either half of a pair, where the dialect of the pool has such
    /// engines.
    Both,
    /// Computes the KV cache of prompts for a decode server.
    Prefill,
    /// Generates tokens from a KV cache that a prefill server computed.
    Decode,
    /// A proxy in front of the pairs of its group: it sends both legs to the endpoints that a
    /// request names.
    Leader,
}

/// What an endpoint's partner in a pair needs to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PairingFacts {
    /// Where a prefill endpoint serves its address to decode endpoints, if not on the pool's usual
    /// port: SGLang's `--disaggregation-bootstrap-port`, vLLM's `VLLM_MOONCAKE_BOOTSTRAP_PORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_port: Option<NonZeroU16>,
    /// What only endpoints of the same value can speak to: the engine's release. NIXL refuses other
    /// releases, so that a rolling upgrade must pair old with old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Arc<str>>,
    /// By which name decode endpoints ask for the cache of each data-parallel rank of a prefill
    /// endpoint, in ascending order of ranks, as its bootstrap server states it (Mooncake). Each
    /// start of an engine has other names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Arc<[EngineRank]>>,
    /// Where it runs: a KV cache is moved sooner to a partner that is near.
    #[serde(flatten)]
    pub location: EndpointLocation,
}

/// Where an endpoint runs, as far as Kubernetes says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct EndpointLocation {
    /// The name of its machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// The zone of that machine: `topology.kubernetes.io/zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
}

/// A data-parallel rank of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct EngineRank {
    /// Its number.
    pub rank: u32,
    /// Its name for decode endpoints.
    pub engine_id: Arc<str>,
}

/// One model server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// See [`EndpointId`].
    pub id: EndpointId,
    /// Where it is.
    #[serde(flatten)]
    pub address: ServerAddress,
    /// For people: `namespace/pod`, or the authority of a static URL.
    pub name: Arc<str>,
    /// What it does for a request.
    pub role: Role,
    /// Prefill and decode endpoints are paired inside one group only.
    pub group: Option<Arc<str>>,
    /// What its partners need to know.
    #[serde(flatten)]
    pub pairing: PairingFacts,
}

/// One name that a client may put into `model`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Model {
    /// The name as clients write it.
    pub name: Arc<str>,
    /// The base model, when this is a LoRA adapter.
    pub parent: Option<Arc<str>>,
    /// Longest prompt plus answer in tokens, when an engine reports it.
    pub max_model_len: Option<u32>,
    /// Which endpoints serve it.
    pub holders: ModelHolders,
}

/// Which endpoints of a pool serve a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelHolders {
    /// Every endpoint of the pool.
    All,
    /// Only these, sorted: a LoRA adapter that some servers have loaded.
    Some(Arc<[EndpointId]>),
    /// Every endpoint of the pool but these, sorted: an adapter that most servers have loaded. When
    /// one of 5,000 starts, this is one id; the list of the others would be 40 kB.
    Except(Arc<[EndpointId]>),
}

/// What a pool has one of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolSpec {
    /// Unique in a snapshot.
    pub name: Arc<str>,
    /// How to choose, wait and retry here.
    pub policy: PoolPolicy,
    /// Which of the pool's lists may still lack entries.
    pub pending: PendingDiscovery,
    /// By which Services gateways reach the picker for this pool: of pools that serve the same
    /// model, the one is meant whose picker was asked. Sorted.
    #[serde(skip_serializing_if = "is_empty")]
    pub pickers: Arc<[PickerReference]>,
    /// In order of precedence: the first that applies to a request decides what its endpoints are
    /// asked for.
    #[serde(skip_serializing_if = "is_empty")]
    pub rewrites: Arc<[ModelRewrite]>,
    /// The priorities of requests that state none. Sorted by model.
    #[serde(skip_serializing_if = "is_empty")]
    pub priorities: Arc<[ModelPriority]>,
    /// What requests may name to have another priority than 0. Sorted by name.
    #[serde(skip_serializing_if = "is_empty")]
    pub objectives: Arc<[Objective]>,
    /// The picker that chooses the endpoints of requests, if that is not this router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_picker: Option<AskedPicker>,
    /// Endpoints at `http` addresses are spoken to over HTTP/2, without asking whether they do.
    #[serde(skip_serializing_if = "is_false")]
    pub http2: bool,
}

/// What the control-plane replica has not discovered of a pool since it started.
///
/// A list that is pending may lack entries: a reader keeps the entries that it had before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PendingDiscovery {
    /// Some source has not listed its endpoints yet.
    pub endpoints: bool,
    /// Some endpoint has not been asked for its models yet.
    pub models: bool,
}

/// A set of endpoints that are interchangeable for a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// What it has one of.
    pub spec: Arc<PoolSpec>,
    /// By name. Empty when neither configuration nor engines name any: then every model name is
    /// forwarded.
    pub models: Collection<Model>,
    /// By id.
    pub endpoints: Collection<Endpoint>,
}

/// The whole cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Who numbered it.
    pub epoch: Epoch,
    /// Its number.
    pub version: Version,
    /// By name.
    pub pools: Collection<Pool>,
    /// By name.
    pub routes: Collection<Route>,
    /// By name.
    pub listeners: Collection<Listener>,
    /// What applies to every request before its pool is known.
    pub settings: Arc<ProxySettings>,
}

// === EndpointId ===

impl EndpointId {
    /// The id of the incarnation `uid` (a pod's UID; empty for static endpoints) at `address` in
    /// `pool`.
    #[must_use]
    pub fn of(pool: &str, address: &ServerAddress, uid: &str) -> Self {
        let url = address.to_string();
        let mut bytes = Vec::with_capacity(pool.len() + url.len() + uid.len() + 2);
        for (index, part) in [pool, &url, uid].iter().enumerate() {
            if index > 0 {
                bytes.push(0);
            }
            bytes.extend_from_slice(part.as_bytes());
        }
        Self(xxhash_rust::xxh3::xxh3_64(&bytes))
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// === Role ===

impl Role {
    /// Its name in labels and in `/debug/snapshot`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aggregate => "aggregate",
            Self::Both => "both",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Leader => "leader",
        }
    }
}

// === PairingFacts ===

impl PairingFacts {
    /// Whether enough is known of a prefill endpoint for a pair of this dialect.
    #[must_use]
    pub fn suffice(&self, dialect: PairDialect) -> bool {
        !dialect.needs_ranks() || self.ranks.is_some()
    }
}

// === PoolSpec ===

impl PoolSpec {
    /// A pool whose lists are complete, and which has nothing besides a policy.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, policy: PoolPolicy) -> Self {
        Self {
            name: name.into(),
            policy,
            pending: PendingDiscovery::default(),
            pickers: Arc::default(),
            rewrites: Arc::default(),
            priorities: Arc::default(),
            objectives: Arc::default(),
            asked_picker: None,
            http2: false,
        }
    }
}

/// What serde calls for lists that most pools lack.
fn is_empty<T>(list: &[T]) -> bool {
    list.is_empty()
}

/// What serde calls for flags that most pools lack.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

// === PendingDiscovery ===

impl PendingDiscovery {
    /// Whether any list may lack entries.
    #[must_use]
    pub fn any(self) -> bool {
        self.endpoints || self.models
    }
}

// === Keys of collections ===

impl Keyed for Endpoint {
    type Key = EndpointId;
    const KIND: &'static str = "endpoint";

    fn key(&self) -> &EndpointId {
        &self.id
    }
}

impl Keyed for Model {
    type Key = Arc<str>;
    const KIND: &'static str = "model";

    fn key(&self) -> &Arc<str> {
        &self.name
    }
}

impl Keyed for Pool {
    type Key = Arc<str>;
    const KIND: &'static str = "pool";

    fn key(&self) -> &Arc<str> {
        &self.spec.name
    }
}

// === Pool ===

impl Pool {
    /// Where the endpoint stands in [`Pool::endpoints`].
    #[must_use]
    pub fn position(&self, id: EndpointId) -> Option<usize> {
        self.endpoints.position(&id)
    }

    /// The model of this name, if the pool is known to serve it.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.find(name).map(|model| &**model)
    }
}

// === Snapshot ===

impl Snapshot {
    /// The pool of this name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.find(name)
    }
}

#[cfg(test)]
mod tests;
