//! The proxy's identity toward the control plane.

use std::hash::{BuildHasher, RandomState};

use hermes_proto::v1::Hello;

/// One run of one proxy.
#[derive(Clone, Debug)]
pub(crate) struct ProxyIdentity {
    /// Random id of this run.
    pub(crate) proxy: u64,
    name: String,
}

impl ProxyIdentity {
    /// A new run with this name.
    pub(crate) fn new(name: String) -> Self {
        Self {
            proxy: seed(),
            name,
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            proxy: self.proxy,
            name: self.name.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// A random number: the hasher's keys are random.
fn seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
